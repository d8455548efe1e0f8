"""The methods: one file each, same order of sections.

A round or row in params.yaml names a line of `methods`, which is called as its method is here. More lines of a method,
each with params of its own, have a name behind a hyphen: `duld`, `duld-paper`.
"""

import importlib

from uld.base.errors import ParamsError
from uld.methods.base import Method

METHODS = {
    "zeroshot": "uld.methods.zeroshot:ZeroShot",
    "duld": "uld.methods.duld:DULD",
    "pose_proxy": "uld.methods.pose_proxy:PoseProxy",
    "duld_pp": "uld.methods.duld_pp:DULDPP",
    "duld_pp_full_vae": "uld.methods.duld_pp:DULDPP",  # the same with another loss in its block
    "mallis_d": "uld.methods.mallis_d:MallisD",
    "mallis_d_detector": "uld.methods.mallis_d_detector:MallisDDetector",
    "mallis_ch4": "uld.methods.mallis_ch4:MallisCh4",
    "mallis_ch4_detector": "uld.methods.mallis_ch4_detector:MallisCh4Detector",
    "mallis_ch5": "uld.methods.mallis_ch5:MallisCh5",
    "mallis_ch5_detector": "uld.methods.mallis_ch5_detector:MallisCh5Detector",
    "position": "uld.methods.position:Position",
    "mean_shape": "uld.methods.mean_shape:MeanShape",
}


def load(line: str) -> type[Method]:
    """The class of the method of a line of `methods`, with the types of its two blocks; imported only when asked for.

    Raises:
        ParamsError: no method has this name.
    """
    name = line.split("-")[0]
    if name not in METHODS:
        raise ParamsError(
            f"there is no method '{name}': choose one of {', '.join(METHODS)}, and for more lines of it METHOD-NAME."
        )
    module, kind = METHODS[name].split(":")
    found: type[Method] = getattr(importlib.import_module(module), kind)
    return found
