"""How much light, sharpness and cover of a view change: the params of `augment.py`, without the code that draws."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld.base.params import CLOSED

Share = Annotated[float, Field(ge=0, le=1)]


@closed(frozen=True, config=CLOSED)
class BlurParams:
    """Gaussian blur of some views."""

    sigma: Annotated[float, Field(ge=0)]  # pixels at most; 0: off
    probability: Share  # of a view; 0: off


@closed(frozen=True, config=CLOSED)
class CutoutParams:
    """A grey square over some views (DeVries and Taylor, 2017)."""

    side: Share  # share of the view's side; 0: off
    probability: Share  # of a view; 0: off


@closed(frozen=True, config=CLOSED)
class PhotometricParams:
    """How much the look of a view changes; 0 switches a change off. A factor is drawn from 1 - value to 1 + value."""

    brightness: Share  # of the factor of all values
    contrast: Share  # of the factor of the difference from the view's mean grey
    saturation: Share  # of the factor of the difference from each pixel's grey
    hue: Annotated[float, Field(ge=0, le=0.5)]  # turn of the colour circle at most; 0.5: all hues
    gamma: Annotated[float, Field(ge=0)]  # of the exponent: from 1 / (1 + value) to 1 + value, each way as likely
    blur: BlurParams
    noise: Annotated[float, Field(ge=0)]  # standard deviation at most, where white is 1
    cutout: CutoutParams
