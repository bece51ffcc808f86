"""Options: declared (option), common to all methods (common), read from files (files), parsed and shown (parser)."""

from options.common import COMMON
from options.files import OptionFileError, expanded, near
from options.option import (
    Option,
    boolean,
    bounded,
    data_set,
    folder,
    name,
    natural,
    positive,
    positive_float,
    resuming,
    weight,
)
from options.parser import OTHER_PROGRAMS, Help, Parser, as_argv
from options.progress import telling

