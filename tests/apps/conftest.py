from tests.rollout.conftest import serve

__all__ = ["serve"]
