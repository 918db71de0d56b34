# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What every op's registration with torch.library shares: the library, autocast and vmap rules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library
from torch.nn import Parameter
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from sr_kernels import config
from sr_kernels.backends.base import Backend, BackendError, ChainArgs, ConvArgs, DenseBlockArgs
from sr_kernels.backends.registry import chosen, find, prepare, prepared, select, willing
from sr_kernels.ops._signature import Signature, is_watched

NAMESPACE = "sr_kernels"
LIBRARY = Library(NAMESPACE, "DEF")

# tensor -> (its dtype, address, shape, strides and version; its storage; what was made from it, by name)
_cache = WeakTensorKeyDictionary()
_lock = threading.Lock()
_AUTOCAST_KEYS = (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA"))


# What a backend's method takes, see Backend.reasons; and the name of the backend asked for.
Packed = tuple[ConvArgs | ChainArgs | DenseBlockArgs | tuple[Any, ...], str]


def _device(args: Any) -> str:
    first: Tensor = args[0] if isinstance(args, tuple) else args.input
    return first.device.type


def _run(backend: Backend, op: str, args: Any) -> Tensor:
    method = getattr(backend, op)
    result: Tensor = method(*args) if isinstance(args, tuple) else method(args)
    return result


# The ops in PyTorch's own pieces, for what has to be without ours: decompositions as torch.export takes them.
PLAIN: dict[Any, Callable[..., Tensor]] = {}


def define(
    name: str,
    schema: str,
    pack: Callable[..., Packed],
    empty: Callable[[Any], Tensor],
    otherwise: Callable[..., Tensor] | None = None,
    check: Callable[[Any], None] | None = None,
) -> tuple[Any, Callable[..., Tensor], Callable[..., Tensor]]:
    """Registers an op for all devices.

    pack gives what the backend's method takes of the schema's arguments; check, if not pack itself, validates
    that; empty makes the result, uninitialised. otherwise: the op in terms of others, for what a backend need
    not do as a whole. Without it check and choice of backend are made once for all calls of one signature.

    Returns the overload, the op in PyTorch's own pieces, and what to call with all arguments: it is the
    overload, or, where nobody but the kernel would see the call, the kernel.
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    defaults = _defaults(op)
    signature = Signature(["Tensor" in str(a.type) for a in op._schema.arguments])

    def checked(flat: Sequence[Any]) -> Packed:
        args, requested = pack(*flat)
        if check is not None:
            check(args)
        return args, requested

    def kernel(*flat: Any) -> Tensor:
        if otherwise is not None:
            args, requested = checked(flat)
            backend = willing(name, _device(args), args, requested)
            return otherwise(*flat) if backend is None else _run(backend, name, args)
        # the dispatcher drops trailing arguments that equal their defaults, and makes lists of tuples
        full = (*flat, *defaults[len(flat) :])
        known = signature.of([tuple(arg) if type(arg) is list else arg for arg in full])
        if known is not None:
            return run(known, flat)
        args, requested = checked(flat)
        return _run(select(name, _device(args), args, requested), name, args)

    def run(known: Hashable, flat: Sequence[Any]) -> Tensor:
        args, requested = pack(*flat)
        key = name, chosen(requested), config.get_precision(), known
        ready = prepared(key)
        if ready is None:
            checked(flat)
            ready = prepare(key, name, _device(args), args, requested)
        result: Tensor = ready(args)
        return result

    def call(*flat: Any) -> Tensor:
        if not (torch.compiler.is_compiling() or is_watched()):
            known = signature.of(flat)
            if known is not None and not (torch.is_grad_enabled() and torch._C._any_requires_grad(*flat)):
                return run(known, flat) if otherwise is None else kernel(*flat)
        result: Tensor = op(*flat)
        return result

    def fake(*flat: Any) -> Tensor:
        return empty(checked(flat)[0])

    def plain(*flat: Any) -> Tensor:
        args, requested = checked(flat)
        if chosen(requested) not in ("auto", "torch"):
            raise BackendError(
                f"{name}: backend {chosen(requested)!r} was asked for and does not run under torch.func's "
                "grad, vjp and jvp, nor in forward mode. Ask for 'auto' or 'torch'."
            )
        return _run(find("torch"), name, args)

    PLAIN[op] = plain if otherwise is None else otherwise
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    return op, plain, call


def _defaults(op: Any) -> tuple[Any, ...]:
    """The default of each argument of an op, None where it has none."""
    return tuple(a.default_value if a.has_default_value() else None for a in op._schema.arguments)


def differentiable(
    name: str,
    op: Any,
    plain: Callable[..., Tensor],
    forward: Callable[[Any, Callable[..., Tensor], tuple[Any, ...]], Tensor],
    backward: Callable[[Any, Tensor], tuple[Any, ...]],
) -> None:
    """Registers the op's autograd.

    forward(ctx, run, arguments) gives the result by run(*arguments), the op without autograd, and keeps what
    backward(ctx, grad) needs for one gradient per argument. Unlike torch.library.register_autograd this
    serves torch.func's transforms and forward mode too, by the plain op, and costs half as much per call.
    """
    defaults = _defaults(op)
    arguments = op._schema.arguments
    has_lists = any(isinstance(a.type, torch.ListType) and "Tensor" in str(a.type) for a in arguments)

    def run(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = op(*args)
        return result

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, structure: TreeSpec | None, *leaves: Any) -> Tensor:
            return forward(ctx, run, leaves if structure is None else tree_unflatten(leaves, structure))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            grads = backward(ctx, grad)
            return None, *(tree_leaves(grads) if has_lists else grads)

    def kernel(*args: Any) -> Tensor:
        if torch._C._are_functorch_transforms_active() or has_tangent(args):
            return plain(*args)
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return run(*args)
        # the dispatcher drops trailing arguments that equal their defaults; autograd sees tensors in no list
        args += defaults[len(args) :]
        leaves, structure = tree_flatten(args) if has_lists else (args, None)
        result: Tensor = Function.apply(structure, *leaves)
        return result

    LIBRARY.impl(name, kernel, "Autograd")


def has_tangent(args: Any) -> bool:
    """Any tensor among args carries a forward-mode gradient of the dual level that is open."""
    if forward_ad._current_level < 0:
        return False
    tensors = (x for x in tree_leaves(args) if isinstance(x, Tensor))
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def derived(x: Tensor, name: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
    """make(x), kept under that name for as long as x lives and is not written to.

    The storage is held too: `x.data = ...` leaves the version alone, and a freed address may be given out
    again, so that an address alone would prove nothing.
    """
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad):
        return make(x)
    if type(x) not in (Tensor, Parameter) or x.is_inference() or has_tangent(x):
        return make(x)
    try:
        state = (x.dtype, x.data_ptr(), x.shape, x.stride(), x._version)
    except RuntimeError:  # a tensor without storage: vmap, functionalisation
        return make(x)
    with _lock:
        kept = _cache.get(x)
        if kept is None or kept[0] != state:
            kept = _cache[x] = state, x.detach(), {}
        values: dict[Hashable, Tensor] = kept[2]
        if name not in values:
            # not an inference tensor even under inference mode: a later backward may save it
            with torch.inference_mode(False), torch.no_grad():
                values[name] = make(x.detach())
        return values[name]


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """function of every tensor in an argument: a tensor, a list of tensors, or anything else."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return [_map(function, item) for item in value]
    return value


def autocast(name: str, op: Any, to: Callable[[str, Sequence[Any]], torch.dtype]) -> None:
    """Under autocast the op's floating tensors, float64 excepted, take the dtype to(device type, args)."""
    for device, key in _AUTOCAST_KEYS:
        LIBRARY.impl(name, _autocast_kernel(op, device, key, to), key)


def _autocast_kernel(
    op: Any, device: str, key: str, to: Callable[[str, Sequence[Any]], torch.dtype]
) -> Callable[..., Tensor]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(*args: Any) -> Tensor:
        dtype = to(device, args)

        def cast(x: Tensor) -> Tensor:
            eligible = x.is_floating_point() and x.dtype != torch.float64 and x.device.type == device
            if not eligible or x.dtype == dtype:
                return x
            # weights are packed for the kernels once a tensor: the cast one must be the same at every call
            return derived(x, dtype, lambda x: x.to(dtype)) if isinstance(x, Parameter) else x.to(dtype)

        cast_args = [_map(cast, arg) for arg in args]
        with torch._C._ExcludeDispatchKeyGuard(keys):
            result: Tensor = op(*cast_args)
        return result

    return kernel


def lower_precision(device: str, args: Sequence[Any]) -> torch.dtype:
    """The active autocast dtype: for convolutions, as torch's own."""
    return torch.get_autocast_dtype(device)


def widest(device: str, args: Sequence[Any]) -> torch.dtype:
    """The widest dtype among the tensors: for additions, as torch's own promotion."""
    dtypes = [arg.dtype for arg in args if isinstance(arg, Tensor)]
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


def vmap(name: str, op: Any, samples: Sequence[int]) -> None:
    """vmap of an op whose arguments at the positions `samples` are (N, ...) tensors, the result too.

    Those are folded into N, where nothing else is batched; otherwise the op runs once per element.
    """

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Tensor, int]:
        folds = all(
            i in samples or all(dim is None for dim in (dims if isinstance(dims, (list, tuple)) else [dims]))
            for i, dims in enumerate(in_dims)
        )
        size = info.batch_size
        if not folds or not samples:
            # of no elements at all, one of zeros tells the shape of a result
            results = [
                op(*(_element(arg, dims, i) for arg, dims in zip(args, in_dims, strict=True)))
                for i in range(max(size, 1))
            ]
            return torch.stack(results)[:size], 0
        folded = list(args)
        for i in samples:
            if i < len(args) and isinstance(args[i], Tensor):
                folded[i] = _batch_first(args[i], in_dims[i], size).flatten(0, 1)
        count = _batch_first(args[samples[0]], in_dims[samples[0]], size).shape[1]
        return op(*folded).unflatten(0, (size, count)), 0

    torch.library.register_vmap(f"{NAMESPACE}::{name}", rule, lib=LIBRARY)


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _element(arg: Any, dims: Any, i: int) -> Any:
    if isinstance(arg, (list, tuple)) and isinstance(dims, (list, tuple)):
        return [_element(a, d, i) for a, d in zip(arg, dims, strict=True)]
    if not isinstance(arg, Tensor) or dims is None:
        return arg
    if arg.shape[dims] == 0:
        return arg.new_zeros(arg.movedim(dims, 0).shape[1:])
    return arg.select(dims, i)
