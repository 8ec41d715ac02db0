"""What the samplers mean, one token at a time, in float64: the reference for everything fast."""

import math

import numpy as np
import torch


def next_logits(model, ids):
    """The logits after a sequence, by a plain forward without any cache."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0, -1].double().numpy()


def hidden_states(model, ids):
    with torch.no_grad():
        return model.base_model(torch.tensor([list(ids)])).last_hidden_state[0].double().numpy()


def log_softmax(logits):
    logits = np.asarray(logits, dtype=np.float64)
    peak = logits.max()
    return logits - peak - np.log(np.exp(logits - peak).sum())


def slow_penalised(logits, sampling, prompt, completion, end_ids):
    """Biases, penalties, n-grams and the minimum length, a token of the vocabulary at a time."""
    out = []
    context = [*prompt, *completion]
    n = sampling.no_repeat_ngram_size
    ngrams = {tuple(context[i : i + n]) for i in range(len(context) - n + 1)} if n else set()
    for token, logit in enumerate(logits):
        x = logit + sampling.logit_bias.get(token, 0.0)
        if token in context:
            x = x / sampling.repetition_penalty if x > 0 else x * sampling.repetition_penalty
        x -= sampling.frequency_penalty * list(completion).count(token)
        x -= sampling.presence_penalty * (token in completion)
        if n and len(context) >= n - 1 and (*context[len(context) - n + 1 :], token) in ngrams:
            x = -math.inf
        if token in end_ids and len(completion) < sampling.min_tokens:
            x = -math.inf
        out.append(x)
    return np.array(out)


def slow_kept(logits, sampling):
    """The tokens that temperature and filters leave, in the order top-k, top-p, min-p, typical."""
    order = sorted((i for i, x in enumerate(logits) if x > -math.inf), key=lambda i: -logits[i])
    scaled = {i: logits[i] / sampling.temperature for i in order}

    def probabilities(tokens):
        return dict(zip(tokens, np.exp(log_softmax([scaled[i] for i in tokens])), strict=True))

    if sampling.top_k:
        order = order[: sampling.top_k]
    order = _until(order, probabilities(order), sampling.top_p)
    p = probabilities(order)
    order = [i for i in order if p[i] >= sampling.min_p * p[order[0]] * (1 - 1e-12)]
    p = probabilities(order)
    if sampling.typical_p < 1:
        entropy = -sum(q * math.log(q) for q in p.values() if q > 0)
        distance = {i: abs(-math.log(p[i]) - entropy) if p[i] > 0 else math.inf for i in order}
        nearest = _until(sorted(order, key=distance.__getitem__), p, sampling.typical_p)
        order = [i for i in order if distance[i] <= distance[nearest[-1]] + 1e-12]
    return set(order)


def _until(tokens, p, mass):
    """The first tokens whose probability together reaches a mass."""
    kept, reached = [], 0.0
    for token in tokens:
        if kept and reached >= mass:
            break
        kept.append(token)
        reached += p[token]
    return kept


def slow_distribution(logits, sampling):
    """The probabilities `[V]` that a token is drawn with."""
    if sampling.temperature == 0:
        return np.eye(len(logits))[int(np.argmax(logits))]
    kept = sorted(slow_kept(logits, sampling))
    out = np.zeros(len(logits))
    out[kept] = np.exp(log_softmax(np.asarray(logits, dtype=np.float64)[kept] / sampling.temperature))
    return out


def expected_logps(model, sampling, prompt, ids, end_ids=(2,)):
    """Log-probs of the distribution that `Sampling` describes, by the definitions."""
    out = []
    for at, token in enumerate(ids):
        logits = next_logits(model, [*prompt, *ids[:at]])
        changed = slow_penalised(logits, sampling, prompt, ids[:at], end_ids)
        out.append(float(np.log(slow_distribution(changed, sampling)[token])))
    return out


def own_logps(model, prompt, ids):
    """Log-probs of the model itself."""
    return [log_softmax(next_logits(model, [*prompt, *ids[:at]]))[token] for at, token in enumerate(ids)]
