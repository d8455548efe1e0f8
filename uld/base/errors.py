"""Errors a user can cause. Each message names the item and the remedy; a stage prints it without a traceback."""


class ULDError(Exception):
    """Base of all errors that a user can cause and mend."""


class ParamsError(ULDError):
    """params.yaml holds an unknown, missing or wrong value."""


class DataError(ULDError):
    """An input image, folder, split or annotation file is unusable."""


class ArtifactError(ULDError):
    """A file that crosses stages is missing, incomplete or was made with other settings."""


class BackboneError(ULDError):
    """A diffusion model folder is missing, incomplete or does not fit."""


class NotInstalled(ULDError):
    """An optional dependency is needed for the chosen params."""
