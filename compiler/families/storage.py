"""How the weights beside a configuration may be stored, for packages to load them."""

from __future__ import annotations

from collections.abc import Mapping

from ..spec.diagnostics import quoted

FLOAT8 = "`fp8` of fmt `e4m3`, in blocks as weight_block_size [128, 128]"
MXFP4 = "`mxfp4`"


def refusal(given: object, *, packed: bool) -> tuple[str, str, str] | None:
    """Return why a quantization_config is not understood, or None: the field, a message and help.

    packed says that the family's checkpoints have all experts in one tensor: only such are stored
    in mxfp4. The field is empty where it is the whole. What is said beyond what is asked here, such
    as which modules were left out, the files say as well.
    """
    supported = f"supported: quant_method {FLOAT8}" + f"; or {MXFP4}" * packed
    if not isinstance(given, Mapping):
        return "", "this quantization_config is not supported", supported
    method = given.get("quant_method")
    understood = {"quant_method": method == "fp8" or (packed and method == "mxfp4")}
    if method == "fp8":
        block = given.get("weight_block_size")
        sizes = block if isinstance(block, list) and len(block) == 2 else [None]
        understood |= {
            "fmt": given.get("fmt") in ("e4m3", None),
            "activation_scheme": given.get("activation_scheme") in ("dynamic", None),
            "weight_block_size": all(type(x) is int and 0 < x < 2**31 for x in sizes),
        }
    wrong = next((name for name, holds in understood.items() if not holds), None)
    if wrong is None:
        return None
    message = f"{wrong} {quoted(given.get(wrong))} of quantization_config is not supported"
    return wrong if wrong in given else "", message, supported
