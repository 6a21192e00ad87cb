# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong outside this package's power.

    BatchInferenceError
    ├── ImageError        one input cannot be read: a record of its own, the run goes on
    ├── InputError        a list, a dataset or the processes that read images cannot be used: the run ends
    ├── OutputError       the results cannot be written: the run ends
    ├── ModelError        the model cannot be used as asked
    │   └── MemoryOnDeviceError    the device has too little memory for a batch
    └── OptionError       options contradict each other or are out of range

Each message is one sentence that a user can act on. Anything else that is raised is a defect of this package.
"""


class BatchInferenceError(Exception):
    """Base of the errors that are shown as one line."""


class ImageError(BatchInferenceError):
    """One input cannot be read as an image; the message leaves its name out, for the record has it already."""


class InputError(BatchInferenceError):
    """Where the inputs come from, or what reads them, cannot be used; the message names it."""


class OutputError(BatchInferenceError):
    """An output cannot be opened or written to; the message names it."""


class ModelError(BatchInferenceError):
    """The model, its folder or the place it should run on cannot be used; the message names it."""


class MemoryOnDeviceError(ModelError):
    """The device has too little memory for a batch, which shows only when one is run."""


class OptionError(BatchInferenceError):
    """A choice is out of range, or excludes another; the message names both."""
