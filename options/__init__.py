"""Options: declared (option), of all methods (common) and of each (methods), read from files (files), parsed and shown
(parser), paths that exist (paths); main.py's command line as far as it needs no torch (program)."""

from options.common import COMMON
from options.files import expanded
from options.methods import DECLARED, NCE_LAYERS, of_method
from options.option import boolean, bounded, data_set, folder, name, resuming
from options.parser import OTHER_PROGRAMS, Help, Parser, as_argv
from options.paths import near, need_checkpoint, need_folder, need_input
from options.progress import telling
from options.remedies import another, named

