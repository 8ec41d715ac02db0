"""Loading: policies, reward models and tokenizers from a name, always safetensors and never remote code.

Every loader gives a plain transformers model without dropout. Dropout makes the policy's log-probs disagree with the
ones its own rollouts recorded, and the gain it brings in fine-tuning for an epoch or two is nil.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sawyer.errors import SawyerError, reason
from sawyer.models.encoders import BiEncoder, is_encoder
from sawyer.models.gguf import read_gguf, read_gguf_tokenizer
from sawyer.models.heads import attach_fresh_head, draw
from sawyer.models.locate import (
    BI_ENCODER,
    check_complete,
    is_classifier,
    locate,
    portable_name,
    read_json,
    resolve,
    weight_files,
)
from sawyer.models.progress import without_progress_bars

__all__ = [
    "load_bi_encoder",
    "load_body",
    "load_policy",
    "load_sequence_classifier",
    "load_tokenizer",
    "model_kind",
    "resolve",
]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|PAD_TOKEN|>", "<|endoftext|>", "<unk>")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the model `name`, with a padding token that differs from the end of sequence.

    Where the tokenizer pads with its EOS (or not at all) a token it already has is taken, and only where none fits is
    `<|pad|>` added; the loaders below grow the embeddings to match. Raises SawyerError where there is no tokenizer.
    """
    place = locate(name)
    if place.suffix == ".gguf":
        return _with_own_pad(read_gguf_tokenizer(place))
    if not _has_tokenizer(place):
        adapter = place / "adapter_config.json"
        if adapter.is_file():
            return load_tokenizer(_base_name(adapter))
        raise SawyerError(
            f"{place} holds no tokenizer (no {_TOKENIZER_FILES[0]}): copy the model's tokenizer files there."
        )
    try:
        return _with_own_pad(AutoTokenizer.from_pretrained(place, trust_remote_code=False))
    except Exception as error:  # tokenizers raises bare Exception for a damaged tokenizer.json
        raise SawyerError(
            f"The tokenizer in {place} cannot be read ({reason(error)}): copy its files again."
        ) from error


def load_policy(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    merge_adapter: bool = True,
) -> PreTrainedModel:
    """The causal LM `name`, in eval mode, on the CPU, without dropout.

    A folder with a PEFT adapter gives its base with the adapter merged in, in float32, so that what it learned is not
    rounded away before it counts; with `merge_adapter=False` a `PeftModel` whose adapter can be trained on. Raises
    SawyerError for weights that are missing, pickled, damaged or of another architecture, and for models that need
    remote code.
    """
    place = locate(name)
    adapter = place / "adapter_config.json"
    if adapter.is_file():
        merged_in = torch.float32 if merge_adapter else dtype
        base = load_policy(_base_name(adapter), dtype=merged_in, attn_implementation=attn_implementation)
        policy = _with_adapter(base, place, merge=merge_adapter)
        if merge_adapter:
            for parameter in policy.parameters():
                parameter.data = parameter.data.to(dtype)
            policy.config.dtype = dtype
            policy.config._name_or_path = policy.name_or_path = portable_name(name)
        return policy
    if place.suffix == ".gguf":
        model = read_gguf(place, dtype=dtype, attn_implementation=attn_implementation)
        _drop_dropout(model.config)
    else:
        model = _from_folder(AutoModelForCausalLM, place, _read_config(place), dtype, attn_implementation)
    model.config._name_or_path = model.name_or_path = portable_name(name)  # what an adapter will call its base
    return _match_tokenizer(model, place)


def load_sequence_classifier(
    name: str,
    *,
    num_labels: int = 1,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    fresh_head: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """The reward model `name`; or, with `fresh_head`, the causal LM `name` under a new head of `num_labels` outputs.

    The fresh head is drawn from N(0, 1/(hidden + 1)) with `seed` (Stiennon et al. 2020, appendix B), whatever the
    global random state. Padding is set to the tokenizer's. Raises SawyerError as `load_policy` does, for a saved head
    of another width, and for a model without a head unless `fresh_head` says that it is to be trained.
    """
    place = locate(name)
    adapter = place / "adapter_config.json"
    if adapter.is_file() and read_json(adapter).get("task_type") == "SEQ_CLS":
        base = load_sequence_classifier(
            _base_name(adapter),
            num_labels=num_labels,
            dtype=dtype,
            attn_implementation=attn_implementation,
            fresh_head=True,  # the adapter brings the trained one
            seed=seed,
        )
        return _with_adapter(base, place, merge=True)
    if place.is_dir() and not adapter.is_file():
        config = _read_config(place)
        if is_classifier(place):
            if config.num_labels != num_labels:
                raise SawyerError(
                    f"The reward model in {place} has {config.num_labels} outputs and {num_labels} were asked for: use "
                    "the causal LM it came from, or ask for as many as it has."
                )
            model = _from_folder(AutoModelForSequenceClassification, place, config, dtype, attn_implementation)
            return _match_tokenizer(model, place)
        if fresh_head and is_encoder(config):
            return _match_tokenizer(
                _fresh_classifier(place, config, num_labels, dtype, attn_implementation, seed), place
            )
    if not fresh_head:
        raise SawyerError(
            f"{name} is a language model and not a reward model, its scores would be those of a random head: train a "
            "reward model from it (stage `reward`), or name one that was."
        )
    policy = load_policy(name, dtype=dtype, attn_implementation=attn_implementation)
    return attach_fresh_head(policy, num_labels=num_labels, seed=seed)


def load_bi_encoder(
    name: str, *, dtype: torch.dtype = torch.float32, fresh_heads: bool = False, seed: int = 0
) -> BiEncoder:
    """The bi-encoder `name`; or, with `fresh_heads`, the encoder `name` under heads drawn with `seed`.

    Raises SawyerError as `load_sequence_classifier` does.
    """
    place = locate(name)
    if not (place / BI_ENCODER).is_file():
        if not fresh_heads:
            raise SawyerError(
                f"{name} is no bi-encoder: train one (stage `reward` with `encoder: bi`), or name one that was."
            )
        body = load_sequence_classifier(name, dtype=dtype, fresh_head=True, seed=seed).base_model
        return BiEncoder(body, seed=seed).eval()  # type: ignore[arg-type]  # the base of a PreTrainedModel is one
    config = _read_config(place)
    model = BiEncoder(AutoModel.from_config(config, dtype=dtype))
    try:
        model.load_state_dict(
            {name: tensor for file in weight_files(place) for name, tensor in load_file(file).items()}
        )
    except RuntimeError as error:
        raise SawyerError(
            f"The model in {place} cannot be loaded ({reason(error)}): check that its config.json and weights belong "
            "together."
        ) from error
    return model.eval()


def load_body(name: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The decoder `name` without any head: of a causal LM, of a reward model, or saved by itself.

    Raises SawyerError as the other loaders do.
    """
    place = locate(name)
    if place.is_dir() and (place / "config.json").is_file() and not (place / "adapter_config.json").is_file():
        config = _read_config(place)
        if not any(
            kind.endswith(("ForCausalLM", "LMHeadModel", "ForSequenceClassification"))
            for kind in config.architectures or ()
        ):
            return _match_tokenizer(_from_folder(AutoModel, place, config, dtype, None), place)
    return load_sequence_classifier(name, dtype=dtype, fresh_head=True).base_model  # type: ignore[return-value]


def model_kind(name: str) -> Literal["decoder", "cross", "bi"]:
    """How `name` reads: as a decoder, an encoder (`cross`: prompt and completion in one sequence) or a bi-encoder."""
    place = locate(name)
    if not place.is_dir() or (place / "adapter_config.json").is_file():
        return "decoder"
    if (place / BI_ENCODER).is_file():
        return "bi"
    return "cross" if is_encoder(_read_config(place)) else "decoder"


def _fresh_classifier(
    place: Path,
    config: PreTrainedConfig,
    num_labels: int,
    dtype: torch.dtype,
    attn_implementation: str | None,
    seed: int,
) -> PreTrainedModel:
    """A sequence classifier on an encoder, whose own body is complete and whose head is drawn with `seed`."""
    config.num_labels = num_labels
    if num_labels == 1:
        config.problem_type = "regression"
    model, missing = _read_weights(AutoModelForSequenceClassification, place, config, dtype, attn_implementation)
    body = f"{model.base_model_prefix}."
    _refuse_missing(place, [name for name in missing if name.startswith(body) and ".pooler." not in name])
    draw(model, missing, seed, dtype)
    return model.eval()


def _read_config(folder: Path) -> PreTrainedConfig:
    read_json(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # unknown architectures, remote code, wrong types: transformers raises many kinds
        raise SawyerError(
            f"{folder / 'config.json'} does not describe a model that can be loaded ({reason(error)}): give a model "
            "that transformers supports without remote code."
        ) from error
    _drop_dropout(config)
    return config


def _drop_dropout(config: PreTrainedConfig) -> None:
    """Set every dropout probability to 0, in the parts of a composite configuration too."""
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _drop_dropout(value)
        elif ("drop" in key or key.endswith("pdrop")) and isinstance(value, float):
            setattr(config, key, 0.0)


def _from_folder(
    auto: Any, folder: Path, config: PreTrainedConfig, dtype: torch.dtype, attn_implementation: str | None
) -> PreTrainedModel:
    model, missing = _read_weights(auto, folder, config, dtype, attn_implementation)
    _refuse_missing(folder, missing)
    return model


def _read_weights(
    auto: Any, folder: Path, config: PreTrainedConfig, dtype: torch.dtype, attn_implementation: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """The model in a folder, and the names of the tensors that its files lack."""
    weight_files(folder)
    try:
        with without_progress_bars():
            model, report = auto.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SawyerError(
            f"The model in {folder} cannot be loaded ({reason(error)}): check that its config.json and weights belong "
            "together."
        ) from error
    return model, sorted(report["missing_keys"])


def _refuse_missing(folder: Path, missing: list[str]) -> None:
    if missing:
        raise SawyerError(
            f"The weights in {folder} lack {len(missing)} of the tensors that its config.json asks for (the first is "
            f"{missing[0]}): copy the model again, or give one of the architecture it claims."
        )


def _base_name(adapter_config: Path) -> str:
    base = read_json(adapter_config).get("base_model_name_or_path")
    if not base:
        raise SawyerError(f"{adapter_config} names no base model: set base_model_name_or_path in it.")
    return base


def _with_adapter(base: PreTrainedModel, folder: Path, *, merge: bool) -> PreTrainedModel:
    from peft import PeftModel

    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise SawyerError(f"{folder} holds no adapter_model.safetensors: save the adapter as safetensors.")
    check_complete(weights)
    try:
        adapted = PeftModel.from_pretrained(base, str(folder), is_trainable=not merge)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SawyerError(
            f"The adapter in {folder} does not fit its base model ({reason(error)}): check base_model_name_or_path."
        ) from error
    return adapted.merge_and_unload() if merge else adapted  # type: ignore[return-value]  # a PeftModel stands in for one


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def _with_own_pad(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    taken = {tokenizer.eos_token_id, None}
    if tokenizer.pad_token_id not in taken:
        return tokenizer
    known = tokenizer.get_vocab()
    for candidate in (*_PAD_CANDIDATES, tokenizer.unk_token):
        if candidate in known and known[candidate] not in taken:
            tokenizer.pad_token = candidate
            return tokenizer
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def _match_tokenizer(model: PreTrainedModel, place: Path) -> PreTrainedModel:
    """Padding as the tokenizer beside the weights has it, with a row of embeddings for a padding token it was given.

    The new row is the mean of the others: no randomness, and no token becomes likelier than the average one.
    """
    if place.is_dir() and not _has_tokenizer(place):
        return model
    tokenizer = load_tokenizer(str(place))
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    rows = _embedding_weight(model.get_input_embeddings()).shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                weight = _embedding_weight(layer)
                with torch.no_grad():
                    weight[rows:] = weight[:rows].mean(dim=0)
    return model


def _embedding_weight(layer: torch.nn.Module) -> torch.Tensor:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight
