# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Makes transformers' Auto classes know CoCa, as soon as they are there.

Registering needs the classes, and with them torch and transformers, which take seconds to import. A command line that
prints its help has no use for them. So when transformers is not loaded yet, registration waits until it is: a watcher
among Python's import finders counts the imports of both packages that are under way, and acts when the outermost one
is done and has brought the Auto classes. Not earlier, because modules that are half imported cannot be imported from.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


# Every Auto class imports this module, so none can be used before it is loaded.
AUTO_CLASSES = "transformers.models.auto.configuration_auto"
WATCHED_PACKAGES = ("transformers", __package__)


def register() -> None:
    """Registers every class; may be called again, by a process that reloads modules."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForZeroShotImageClassification,
        AutoProcessor,
        AutoTokenizer,
    )

    from .configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig
    from .image_processing_coca import CoCaImageProcessor
    from .modeling_coca import CoCaForCaptioning, CoCaModel
    from .processing_coca import CoCaProcessor
    from .tokenization_coca import CoCaTokenizer

    for config_class in (CoCaConfig, CoCaVisionConfig, CoCaTextConfig, CoCaMultimodalConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(CoCaConfig, CoCaModel, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(CoCaConfig, CoCaModel, exist_ok=True)
    AutoModelForImageTextToText.register(CoCaConfig, CoCaForCaptioning, exist_ok=True)
    AutoProcessor.register(CoCaConfig, CoCaProcessor, exist_ok=True)
    AutoTokenizer.register(CoCaConfig, tokenizer_class=CoCaTokenizer, exist_ok=True)
    AutoImageProcessor.register(CoCaConfig, image_processor_classes={"pil": CoCaImageProcessor}, exist_ok=True)


def register_when_possible() -> None:
    """Registers now if transformers' Auto classes are loaded, else when they are."""
    if AUTO_CLASSES in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _ImportWatcher())


class _ImportWatcher(importlib.abc.MetaPathFinder):
    """Finds nothing by itself: counts the watched packages' imports under way in each thread, then registers once."""

    def __init__(self) -> None:
        self._under_way = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in WATCHED_PACKAGES:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find and not isinstance(finder, _ImportWatcher) else None
            if spec is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Any) -> None:
        """Lets `loader` report when it has run its module, this once."""
        run = getattr(loader, "exec_module", None)
        if run is None:
            return
        try:
            loader.exec_module = functools.partial(self._run, loader, run)
        except AttributeError:
            # A loader of another make without room for it: the modules it loads go uncounted.
            return

    def _run(self, loader: Any, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        del loader.exec_module
        depth = getattr(self._under_way, "depth", 0)
        self._under_way.depth = depth + 1
        try:
            run(module)
        finally:
            self._under_way.depth = depth
        if depth == 0 and AUTO_CLASSES in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            register()
