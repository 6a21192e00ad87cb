# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
What makes a model fast, put into it by one call: `optimize_for_inference` or `optimize_for_training`.

Results differ from the plain model's by rounding only. Parts of the model are known by the names of their classes,
since those of a saved folder's own code are not this package's.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import CompileConfig
from transformers.cache_utils import Cache, DynamicCache, StaticLayer
from transformers.loss.loss_utils import ForCausalLMLoss


Model = TypeVar("Model", bound=nn.Module)


def _named(module: nn.Module, name: str) -> bool:
    """Whether it is of a class of that name, from whatever file, or of a subclass, as FSDP makes them."""
    return any(base.__name__ == name for base in type(module).__mro__)


def _find(model: nn.Module, name: str) -> list[nn.Module]:
    return [module for module in model.modules() if _named(module, name)]


def _is_plain_linear(layer: nn.Module) -> bool:
    """
    Whether its weights may be used without calling it.

    An adapter and a parametrisation have another class; quantised and distributed weights another type. Hooks, and a
    `forward` of its own, are how others bring in weights that are sharded or offloaded.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return (
        type(layer) is nn.Linear
        and not any(hooks)
        and "forward" not in vars(layer)
        and type(layer.weight) in (nn.Parameter, Tensor)
        and not layer.weight.is_meta
    )


# --- replacing methods ---


class _Replacement(nn.Module):
    """
    Base of classes whose methods take the place of a module's own.

    The module's class becomes a subclass of both, so that parameters keep their names and `isinstance` its answers.
    """

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # No import finds a class that was made here.
        replacement, plain = type(self).__bases__
        return _new, (replacement, plain), self.__dict__


@functools.cache
def _replaced(replacement: Any, plain: Any) -> Any:
    # The library and others look classes up by their names.
    names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (replacement, plain), names)


def _new(replacement: Any, plain: Any) -> Any:
    cls = _replaced(replacement, plain)
    return cls.__new__(cls)


def _replace(module: nn.Module, replacement: Any) -> None:
    if not isinstance(module, replacement):
        plain: Any = type(module)
        module.__class__ = _replaced(replacement, plain)


# --- training ---

# 32 MB in float32, or a sixteenth of all where that is more: each chunk reads the vocabulary's weights, and adds to
# their gradients, once more.
MIN_LOGITS_AT_ONCE, MAX_LOGITS_CHUNKS = 2**23, 16


class _ChunkedLoss(torch.autograd.Function):
    """
    The sum of `chunk_loss(logits, labels)` over chunks of positions, whose logits never exist all at once.

    Gradients are made of the logits while these are there, so that nothing is computed again when going backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        labels: Tensor,
        size: int,
        dtype: torch.dtype,
        chunk_loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """(positions, hidden), (vocabulary, hidden), (positions,), positions in a chunk, of the products -> ()."""
        cast_states, cast_weight = states.to(dtype), weight.to(dtype)
        needs_states, needs_weight, *_ = ctx.needs_input_grad
        states_gradient = torch.empty_like(cast_states) if needs_states else None
        # Added up in float32 at least, over many chunks.
        sum_dtype = torch.promote_types(dtype, torch.float32)
        weight_gradient = torch.zeros_like(weight, dtype=sum_dtype) if needs_weight else None
        total = torch.zeros((), device=states.device)  # float32, as the library's loss
        for start in range(0, max(states.shape[0], 1), size):
            chunk = slice(start, start + size)
            logits = F.linear(cast_states[chunk], cast_weight)
            with torch.enable_grad():
                loss = chunk_loss(logits.requires_grad_(), labels[chunk])
            (gradient,) = torch.autograd.grad(loss, logits)
            total += loss.detach()
            if states_gradient is not None:
                torch.mm(gradient, cast_weight, out=states_gradient[chunk])
            if weight_gradient is not None and gradient.dtype == sum_dtype:
                weight_gradient.addmm_(gradient.t(), cast_states[chunk])
            elif weight_gradient is not None:
                weight_gradient += gradient.t() @ cast_states[chunk]
        ctx.save_for_backward(states_gradient, weight_gradient)
        ctx.dtypes = states.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        # In place unless they are kept for another pass: the weights' gradient is as large as the weights.
        is_kept = torch._C._autograd._get_current_graph_task_keep_graph()
        multiply = torch.mul if is_kept else Tensor.mul_
        gradients = (
            None if gradient is None else multiply(gradient, scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *gradients, None, None, None, None


class _ChunkedScore(_Replacement):
    """`CoCaForCaptioning` that computes the loss in training without returning `logits`."""

    def score(
        self, hidden_states: Tensor, labels: Tensor | None, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        """(rows, text, hidden), (rows, text) -> logits (rows, text, vocabulary), none in training; loss ()."""
        has_labels = labels is not None or kwargs.get("shift_labels") is not None
        if not (has_labels and self.training and torch.is_grad_enabled()):
            return super().score(hidden_states, labels, logits_to_keep, **kwargs)
        keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
        # A loss of one's own need not be a sum over positions, and compiled shapes must not depend on data.
        is_sum = self.loss_function is ForCausalLMLoss and keeps_all and not torch.compiler.is_compiling()
        if not (is_sum and _is_plain_linear(self.lm_head)):
            return None, super().score(hidden_states, labels, logits_to_keep, **kwargs)[1]
        return None, self._chunked_loss(hidden_states, labels, **kwargs)

    def _chunked_loss(
        self,
        hidden_states: Tensor,
        labels: Tensor | None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> Tensor:
        """The loss of `score`, in chunks of the positions that count: (rows, text, hidden), (rows, text) -> ()."""
        if shift_labels is None:
            shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        counted = (shift_labels != ignore_index).flatten().nonzero()[:, 0]
        next_tokens = shift_labels.flatten()[counted].to(hidden_states.device)
        states = hidden_states.flatten(0, 1)[counted.to(hidden_states.device)]
        vocab_size = self.lm_head.out_features
        size = max(MIN_LOGITS_AT_ONCE // vocab_size, -(-states.shape[0] // MAX_LOGITS_CHUNKS), 1)
        kwargs |= {
            "labels": None,
            "vocab_size": vocab_size,
            "num_items_in_batch": states.shape[0] if num_items_in_batch is None else num_items_in_batch,
            "ignore_index": ignore_index,
        }

        def chunk_loss(logits: Tensor, next_tokens: Tensor) -> Tensor:
            return self.loss_function(logits=logits, shift_labels=next_tokens, **kwargs)

        def remade_loss(states: Tensor, next_tokens: Tensor) -> Tensor:
            return checkpoint(lambda: chunk_loss(self.lm_head(states), next_tokens), use_reentrant=False)

        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.lm_head.weight.dtype
        if dtype == torch.float16:
            # Gradients would vanish before a scaled loss could save them.
            return sum(map(remade_loss, states.split(size), next_tokens.split(size)))
        with torch.autocast(device, enabled=False):
            return _ChunkedLoss.apply(states, self.lm_head.weight, next_tokens, size, dtype, chunk_loss)


class _UnprojectedAttention(_Replacement):
    """
    `CoCaCrossAttention` that spares the keys and values of a context that few queries see, in training.

    Attention to the context itself gives the same: q (W c) = (W' q) c, and what is attended to is projected after. For
    Q queries of H heads, T tokens of C channels and heads of D channels it multiplies 2 H Q C (T + D) times instead of
    2 H T D (C + Q): less than a quarter with 12 tokens of text in coca_ViT-B-32.
    """

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(rows, length, hidden), (images, tokens, context size) -> (rows, length, hidden), weights or `None`."""
        if context is None or cache is not None or not self._is_worth_it(hidden_states, context):
            return super().forward(hidden_states, context, cache)
        images, query = context.shape[0], self.q_proj(hidden_states)
        rows, length = max(query.shape[0], images), query.shape[1]
        query = query.expand(rows, -1, -1).reshape(images, -1, query.shape[-1])
        query = query.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (images, heads, queries, head size)
        key_weight = self.k_proj.weight.unflatten(0, (-1, self.head_dim))  # (heads, head size, context size)
        value_weight = self.v_proj.weight.unflatten(0, (-1, self.head_dim))
        attended = F.scaled_dot_product_attention(
            (query @ key_weight).flatten(1, 2)[:, None],
            context[:, None],
            context[:, None],
            dropout_p=self.config.attention_dropout,
            scale=self.scaling,
        )
        attended = attended.view(*query.shape[:3], -1) @ value_weight.transpose(1, 2)
        # The keys' bias adds the same to all scores of a query, which softmax ignores. Its gradient is zero, not None.
        bias = torch.add(self.v_proj.bias, self.k_proj.bias, alpha=0)
        attended = attended.transpose(1, 2) + bias.view(-1, self.head_dim)  # (images, queries, heads, head size)
        return self.out_proj(attended.reshape(rows, length, -1)), None

    def _is_worth_it(self, hidden_states: Tensor, context: Tensor) -> bool:
        num_queries = max(1, hidden_states.shape[0] // context.shape[0]) * hidden_states.shape[1]
        return (
            self.training
            and torch.is_grad_enabled()
            and num_queries <= self.head_dim // 2
            and self.config._attn_implementation == "sdpa"
            and _is_plain_linear(self.k_proj)
            and _is_plain_linear(self.v_proj)
        )


class _RemadeActivation(_Replacement):
    """`CoCaMLP` that makes its activations again going backward: kept, they are a quarter of a layer's memory."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, length, hidden) -> (batch, length, hidden)."""
        hidden_states = self.fc1(hidden_states)
        if self.training and torch.is_grad_enabled():
            return checkpoint(self._activate_and_project, hidden_states, use_reentrant=False)
        return self._activate_and_project(hidden_states)

    def _activate_and_project(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(hidden_states))


class _NoTrainingCache(_Replacement):
    """`CoCaTextModel` that fills no new cache while gradients are recorded, where the default would have it filled."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.training and torch.is_grad_enabled() and kwargs.get("cache") is None:
            kwargs["use_cache"] = False
        return super().__call__(*args, **kwargs)


TRAINING_REPLACEMENTS = {
    "CoCaForCaptioning": _ChunkedScore,
    "CoCaCrossAttention": _UnprojectedAttention,
    "CoCaMLP": _RemadeActivation,
    "CoCaTextModel": _NoTrainingCache,
}


def optimize_for_training(model: Model) -> Model:
    """
    Makes training faster and smaller, in place, with the same losses and gradients but for rounding.

    - With labels, the caption loss is computed in chunks of positions, whose logits never exist all at once. `logits`
      is then `None` while the model trains; in evaluation mode they are there.
    - Short texts attend to the image tokens without making keys and values of them, with attention "sdpa".
    - MLPs make their activations again going backward instead of keeping them.
    - No cache is filled, whatever `use_cache` says, unless one is passed.

    Parameters keep their names: the model is saved, adapted, wrapped and compiled as before. Where an adapter, a hook,
    or a quantised or sharded weight sits on a linear layer that one of these would bypass, the plain way is taken;
    so it is with a loss function of your own, and inside `torch.compile`. In evaluation mode nothing changes. A second
    call changes nothing. [`undo_optimizations`] brings the plain model back.

    Returns:
        `model`, which may also be one that contains a CoCa, such as a PEFT model.

    Raises:
        ValueError: Nothing in the model is CoCa's, or it is optimised for inference.

    Example:

    ```python
    >>> import coca_hf
    >>> from transformers import AutoModelForImageTextToText

    >>> model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
    >>> model = coca_hf.optimize_for_training(model).train()
    ```"""
    if _is_for_inference(model):
        raise ValueError("The model is optimised for inference, for good: load it again to train it.")
    found = [(module, cls) for name, cls in TRAINING_REPLACEMENTS.items() for module in _find(model, name)]
    if not found:
        raise ValueError(f"{type(model).__name__} contains no part of CoCa that optimize_for_training() knows.")
    for module, replacement in found:
        _replace(module, replacement)
    return model


def undo_optimizations(model: Model) -> Model:
    """
    Takes out what `optimize_for_training` put in.

    Returns:
        `model`, plain as it was made.

    Raises:
        ValueError: It is optimised for inference, or was sharded since by FSDP, which holds on to its classes.
    """
    if _is_for_inference(model):
        raise ValueError("Optimising for inference cannot be undone: load the model again.")
    replaced = [module for module in model.modules() if isinstance(module, _Replacement)]
    for module in replaced:
        if type(module).__bases__[0] not in TRAINING_REPLACEMENTS.values():
            raise ValueError(
                f"{type(module).__name__} was given another class after optimize_for_training(), as fully_shard() "
                "does: undo the optimisation before that."
            )
    for module in replaced:
        module.__class__ = type(module).__bases__[1]
    return model


# --- inference ---

PACKED_DTYPES = (torch.float32, torch.bfloat16)
# Rows that a layout is made for. One made for few rows is slow for many, but not the other way round.
NUM_ROWS = 1024


def _refuse(wish: str) -> Any:
    raise RuntimeError(f"The model is optimised for inference, so it cannot be {wish}: load it again for that.")


def _check_unchanged(convert: Callable[[Tensor], Tensor], tensor: Tensor) -> None:
    """Refuses what would bring `tensor` to another device or type; `pipeline` asks for the device that it is on."""
    converted = convert(tensor.new_empty(0))
    if (converted.device, converted.dtype) != (tensor.device, tensor.dtype):
        _refuse(f"moved or converted ({tensor.dtype} on {tensor.device} to {converted.dtype} on {converted.device})")


class PackedLinear(nn.Module):
    """`nn.Linear` for inference, its weight in oneDNN's own layout; with `activation="gelu"`, GELU (erf) follows."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation = activation
        # Neither are parameters: nothing but this layer's product can read the layout.
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), NUM_ROWS)
        self.packed_bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., in features) -> (..., out features)."""
        return torch.ops.mkldnn._linear_pointwise(
            hidden_states, self.packed_weight, self.packed_bias, self.activation, [], "none"
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, activation={self.activation}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        _check_unchanged(fn, torch.empty(0, dtype=self.packed_weight.dtype))
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse("saved")

    def __reduce_ex__(self, protocol: Any) -> Any:
        _refuse("copied or pickled")


class _JoinedProjections(_Replacement):
    """`CoCaAttention` whose queries, keys and values come from one product."""

    def _project(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """(batch, length, hidden) -> query, key and value, each (batch, heads, length, head size)."""
        heads = (*hidden_states.shape[:2], -1, self.head_dim)
        parts = self.qkv_proj(hidden_states).chunk(3, dim=-1)
        return tuple(part.view(heads).transpose(1, 2) for part in parts)


class _ForInference(_Replacement):
    """A model that refuses in words what its weights, packed or compiled in, are no longer good for."""

    def train(self, mode: bool = True) -> Any:
        return super().train(mode) if not mode else _refuse("trained")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        _check_unchanged(fn, next(self.parameters()))
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("saved")

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("saved")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("given other weights")

    def __reduce_ex__(self, protocol: Any) -> Any:
        _refuse("copied or pickled")


def _is_for_inference(model: nn.Module) -> bool:
    return any(isinstance(module, _ForInference) for module in model.modules())


def _joined(*layers: nn.Linear) -> nn.Linear:
    """One layer that gives the outputs of all, one behind the other."""
    joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    joined.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
    return joined


def _join_projections(attention: nn.Module) -> None:
    layers = [getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj")]
    if hasattr(attention, "_project") and all(map(_is_plain_linear, layers)):
        attention.qkv_proj = _joined(*layers)
        del attention.q_proj, attention.k_proj, attention.v_proj
        _replace(attention, _JoinedProjections)


def _pack(module: nn.Module) -> None:
    """Packs the linear layers in `module`, but for those with an adapter or a hook."""
    if _named(module, "CoCaAttention"):
        _join_projections(module)
    if _named(module, "CoCaMLP") and module.config.hidden_act == "gelu" and _is_plain_linear(module.fc1):
        module.fc1, module.activation_fn = PackedLinear(module.fc1, "gelu"), nn.Identity()
    for name, child in list(module.named_children()):
        if _is_plain_linear(child):
            setattr(module, name, PackedLinear(child))
        elif not hasattr(child, "base_layer"):  # what PEFT calls the layer that it adapts
            _pack(child)


def _check_packable(model: nn.Module, dtype: torch.dtype | None) -> None:
    if not torch.backends.mkldnn.is_available():
        raise ValueError("Packing weights needs oneDNN, which this build of PyTorch lacks: pass compile=True.")
    for name, parameter in model.named_parameters():
        dtype_then = dtype or parameter.dtype
        if type(parameter) is not nn.Parameter or dtype_then not in PACKED_DTYPES:
            raise ValueError(
                f"{name} is {dtype_then}, or quantised: on a CPU, optimize_for_inference() packs weights of float32 "
                "or bfloat16. Pass dtype=torch.float32, or leave a quantised model as it is."
            )
        if dtype_then == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise ValueError(
                f"{name} is torch.bfloat16, which this processor has no products for: pass dtype=torch.float32, which "
                "is faster here."
            )


def _compile_options(device: torch.device) -> dict[str, Any]:
    """What `torch.compile` is to be called with."""
    if device.type != "cpu":
        return CompileConfig().to_dict()  # as the library compiles greedy decoding
    return {
        "options": {
            # Weights become constants, which products written for them read faster than the library of products does.
            "freezing": True,
            "max_autotune": True,
            "max_autotune_gemm_backends": "CPP,ATEN",
            # A step is some hundred kernels, too short to be called from Python, or behind a check of every module.
            "cpp_wrapper": True,
            "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
        }
    }


def _is_step(input_ids: Tensor | None = None, cache: Cache | None = None, **kwargs: Any) -> bool:
    """Whether a call adds one token to each text of a static cache, which the first pass has filled."""
    return (
        input_ids is not None
        and input_ids.shape[1] == 1
        and cache is not None
        and not isinstance(cache, DynamicCache)
        and cache.is_compileable
        and all(layer.is_initialized for layer in cache.layers)
    )


def _has_images_alone(pixel_values: Tensor | None = None, **kwargs: Any) -> bool:
    texts = (kwargs.get(name) for name in ("input_ids", "inputs_embeds", "labels"))
    return pixel_values is not None and all(text is None for text in texts)


def _reorder_in_place(cache: Cache, beam_idx: Tensor) -> Cache:
    """`cache.reorder_cache` without new tensors: a CUDA graph reads the very ones that it was recorded with."""
    for layer in cache.layers:
        if isinstance(layer, StaticLayer) and layer.is_initialized:
            layer.keys.copy_(layer.keys.index_select(0, beam_idx))
            layer.values.copy_(layer.values.index_select(0, beam_idx))
        else:
            layer.reorder_cache(beam_idx)
    return cache


def _compile_calls(captioner: nn.Module, device: torch.device) -> None:
    """Gives it a `forward` that sends calls which repeat to a compiled one, and has `generate()` make such calls."""
    plain, is_cpu = captioner.forward, device.type == "cpu"
    if is_cpu:
        # Written out, the attention of one token becomes loops of its own, faster than the kernel for many.
        captioner.set_attn_implementation({"text_config": "eager", "multimodal_config": "eager"})
    compiled = torch.compile(plain, **_compile_options(device))

    @functools.wraps(plain)  # generate() looks at its parameters
    def forward(*args: Any, **kwargs: Any) -> Any:
        # On a card the library compiles greedy steps by itself. What a CUDA graph returns is overwritten by its next
        # run, which encoded images must not be.
        repeats = _is_step(**kwargs) or (is_cpu and _has_images_alone(**kwargs))
        is_outermost = not args and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return (compiled if is_outermost and repeats else plain)(*args, **kwargs)

    captioner.forward = forward
    captioner.generation_config.cache_implementation = "static"
    if not is_cpu:
        captioner._reorder_cache = _reorder_in_place


def _devices(model: nn.Module) -> Iterator[torch.device]:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"{name} has no values here: optimize_for_inference() takes a model that is loaded whole, without "
                "offloading."
            )
        yield parameter.device


def optimize_for_inference(model: Model, compile: bool = False, dtype: torch.dtype | None = None) -> Model:
    """
    Makes inference fast on the device where the model is, in place, with the same results but for rounding.

    Without `compile`, the weights of a model on a CPU are packed in the layout that the processor's matrix products
    read fastest: the same numbers, in the same memory. It takes seconds, and any input profits. PyTorch's float32
    products go through MKL, which on some processors uses half of them; oneDNN with packed weights does not, and saves
    bfloat16 the repacking at every call. On another device there is nothing to pack.

    With `compile`, `generate()` uses a static cache, and `torch.compile` makes one program of each of its steps, and
    on a CPU of the image encoder. It takes minutes on a CPU, anew for each batch size, and pays for a long run.

    Afterwards the model can be neither trained, saved, copied, moved nor converted. A second call changes nothing.

    Args:
        model: A CoCa of any class, or one that contains it. Adapters are best merged before.
        compile: Whether to compile a captioner's decoding, instead of packing its weights.
        dtype: What to convert the model to first; by default its type stays. bfloat16 pays on a card, and on a CPU
            that has products for it.

    Returns:
        `model`, in evaluation mode.

    Raises:
        ValueError: Weights are offloaded; on a CPU, they are of a type that it has no fast products for; or `compile`
            is asked of a model that does not generate, or on a device that `torch.compile` does not serve.

    Example:

    ```python
    >>> import coca_hf
    >>> from transformers import AutoModelForImageTextToText

    >>> model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
    >>> model = coca_hf.optimize_for_inference(model)
    ```"""
    if _is_for_inference(model):
        return _optimized_already(model, compile, dtype)
    devices = set(_devices(model))
    captioners = _find(model, "CoCaForCaptioning")
    if compile and not captioners:
        raise ValueError(f"compile=True compiles generate(), which {type(model).__name__} lacks: use torch.compile.")
    if compile and (len(devices) > 1 or "mps" in {device.type for device in devices}):
        raise ValueError(f"compile=True needs a model on one CPU or CUDA device, not on {sorted(map(str, devices))}.")
    is_packed = not compile and devices == {torch.device("cpu")}
    if is_packed:
        _check_packable(model, dtype)
    undo_optimizations(model).eval().requires_grad_(False)
    if dtype is not None:
        model.to(dtype)
    if is_packed:
        _pack(model)
    for captioner in captioners if compile else ():
        _compile_calls(captioner, *devices)
    if is_packed or compile:
        _replace(model, _ForInference)
    return model


def _optimized_already(model: Model, compile: bool, dtype: torch.dtype | None) -> Model:
    is_compiled = not any(isinstance(module, PackedLinear) for module in model.modules())
    if is_compiled != compile or dtype not in (None, next(model.parameters()).dtype):
        raise ValueError("The model is optimised for inference already: load it again to have it otherwise.")
    return model


__all__ = ["PackedLinear", "optimize_for_inference", "optimize_for_training", "undo_optimizations"]
