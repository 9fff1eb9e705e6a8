"""A simulated CUDA device for machines without one: the CPU computes, and labels tell which tensors are on the device.

Tensors on the device are labeled by their storage, so that views and saved tensors of autograd have the label, too. An
operation that mixes both devices is rejected where PyTorch rejects it on a real device: all operations except copies,
scalars in elementwise operations, and indices on the CPU into a tensor on the device. Operations that would wait for
the device are counted.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
COPIES = ("aten::copy_", "aten::_to_copy", "aten::set_", "aten::lift_fresh", "aten::_foreach_copy_")
WAITS = {  # operations whose result, or its size, is known only when a CUDA device has finished
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::equal",
    "aten::unique_consecutive",
}
NUMBERS = (Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist)
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class MixedDevices(RuntimeError):
    "An operation that a real device would reject."


def is_cuda(device: Any) -> bool:
    "Return whether the device, as a name, an index or a torch.device, is the simulated one."
    return device is not None and (isinstance(device, int) or torch.device(device).type == "cuda")


def storage_of(tensor: Tensor) -> Any:
    "Return the storage of a tensor, also of one that vmap has wrapped; None if it has none."
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()
    except NotImplementedError:
        return None


class Labels:
    "A set of storages."

    def __init__(self):
        self.known: dict[int, StorageWeakRef] = {}  # the weak reference keeps its address from being reused

    def add(self, tensor: Tensor) -> None:
        "Label the tensor's storage."
        storage = storage_of(tensor)
        if storage is None:
            return
        self.known[storage._cdata] = StorageWeakRef(storage)
        if len(self.known) % 4096 == 0:
            self.known = {address: reference for address, reference in self.known.items() if not reference.expired()}

    def __contains__(self, tensor: Tensor) -> bool:
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            storage = storage_of(tensor)
        return storage is not None and storage._cdata in self.known


class _Operations(TorchDispatchMode):
    "Reject mixed devices, label results, count waits."

    def __init__(self, owner: "StandIn"):
        super().__init__()
        self.owner = owner
        self.neutral = Labels()  # made inside PyTorch without a device: on the device of what they are used with

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, labels = kwargs or {}, self.owner.labels
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        name = func._schema.name
        if not tensors and not self.owner.called_by_program:
            result = func(*args, **kwargs)
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self.neutral.add(tensor)
            return result
        on_device = [tensor in labels for tensor in tensors]
        if not any(on_device):
            result = func(*args, **kwargs)
            if tensors and all(tensor in self.neutral for tensor in tensors):
                for tensor in tree_leaves(result):
                    if isinstance(tensor, Tensor):
                        self.neutral.add(tensor)
            return result
        if name not in COPIES and not all(on_device):
            self._refuse_mixed(func, name, args, tensors, on_device)
        self._count(name, args)
        result = func(*args, **kwargs)
        if name in COPIES and not on_device[0]:
            return result
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor not in labels:
                labels.add(tensor)
        return result

    def _count(self, name: str, args: tuple) -> None:
        if name in WAITS:
            self.owner.waits[name.removeprefix("aten::")] += 1
        if name in INDEXED and any(
            isinstance(tensor, Tensor) and tensor.dtype == torch.bool and tensor in self.owner.labels
            for tensor in args[1]
        ):
            self.owner.waits["boolean index"] += 1
        if name == "aten::copy_" and args[0] not in self.owner.labels:
            self.owner.waits["copy to the CPU"] += 1

    def _refuse_mixed(self, func, name: str, args: tuple, tensors: list[Tensor], on_device: list[bool]) -> None:
        misplaced = [
            (k, tensor)
            for k, (tensor, is_labeled) in enumerate(zip(tensors, on_device))
            if not is_labeled and tensor not in self.neutral
        ]
        if name in INDEXED:
            indices = {id(tensor) for tensor in args[1] if isinstance(tensor, Tensor)}
            misplaced = [(k, tensor) for k, tensor in misplaced if not (id(tensor) in indices and on_device[0])]
        allows_scalars = torch.Tag.pointwise in func.tags or name in INDEXED
        is_in_place = func._schema.is_mutable
        misplaced = [
            (k, tensor)
            for k, tensor in misplaced
            if not (allows_scalars and tensor.ndim == 0 and not (is_in_place and k == 0))
        ]
        if misplaced:
            shapes = ", ".join(
                f"{tuple(tensor.shape)} on {'cuda' if is_labeled else 'cpu'}"
                for tensor, is_labeled in zip(tensors, on_device)
            )
            raise MixedDevices(f"{func}: expected all tensors to be on the same device, but found {shapes}")


class StandIn(TorchFunctionMode):
    "A context in which 'cuda' is a device. `waits` counts by kind the operations that would wait for it."

    def __init__(self):
        super().__init__()
        self.labels, self.waits = Labels(), Counter()
        self.called_by_program = False  # whether the program itself makes a new tensor

    def __enter__(self) -> "StandIn":
        self._open = ExitStack()
        self._open.enter_context(
            patch.object(torch.autograd, "has_torch_function", lambda tensors: False)
        )  # gradients are computed inside, too
        self._open.enter_context(
            patch.object(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        )  # there is no cuDNN
        self._open.enter_context(
            patch.object(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", self._grouped)
        )  # in C++ it would see the true device
        self._open.enter_context(_Operations(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._open.close()

    def _grouped(self, lists: list[list[Tensor]], with_indices: bool = False) -> dict:
        "Group tensors by their simulated device and dtype, as PyTorch does by their true device."
        grouped: dict = {}
        for position, row in enumerate(zip(*lists)):
            group, positions = grouped.setdefault((self.device_of(row[0]), row[0].dtype), ([[] for _ in lists], []))
            for column, tensor in zip(group, row):
                column.append(tensor)
            positions.append(position)
        return grouped

    @contextmanager
    def again(self) -> Iterator[None]:
        "Enter the context again from inside one of its functions."
        TorchFunctionMode.__enter__(self)
        try:
            yield
        finally:
            TorchFunctionMode.__exit__(self, None, None, None)

    def device_of(self, tensor: Tensor) -> torch.device:
        "Return the simulated device of a tensor."
        return DEVICE if tensor in self.labels else tensor.device

    def move(self, tensor: Tensor, device: Any, copy: bool = False) -> Tensor:
        "Return the tensor on the device; a copy if it is on the other one."
        is_there, is_wanted = tensor in self.labels, is_cuda(device)
        if is_there == is_wanted:
            return tensor.clone() if copy else tensor
        if is_there:
            self.waits["copy to the CPU"] += 1
        with torch._C._DisableTorchDispatch():
            other = _Moved.apply(tensor, self.labels, is_wanted)
        return other

    def __torch_function__(self, func, types, args=(), kwargs=None):
        before, self.called_by_program = (
            self.called_by_program,
            not any(isinstance(value, Tensor) for value in tree_leaves((args, kwargs))),
        )
        try:
            return self._run(func, args, dict(kwargs or {}))
        finally:
            self.called_by_program = before

    def _run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if func == Tensor.device.__get__:
            return self.device_of(args[0])
        if func == Tensor.is_cuda.__get__:
            return args[0] in self.labels
        if func == Tensor.is_cpu.__get__:
            return args[0] not in self.labels and args[0].is_cpu
        if func is Tensor.get_device:
            return 0 if args[0] in self.labels else -1
        if func is Tensor.cuda:
            return self.move(args[0], DEVICE)
        if func is Tensor.cpu:
            return self.move(args[0], CPU)
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if func is Tensor.backward:
            kwargs["grad_tensors"] = kwargs.pop("gradient", None)
            with self.again():
                return torch.autograd.backward(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and args[0] in self.labels:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory first."
            )
        if func in NUMBERS and args[0] in self.labels:  # which operations are called differs in inference mode
            before = self.waits.copy()
            result = func(*args, **kwargs)
            self.waits = before
            self.waits["number"] += 1
            return result
        if func in (Tensor.is_pinned, Tensor.pin_memory):
            return False if func is Tensor.is_pinned else args[0]
        if func is torch.nn.functional.one_hot and args[0] in self.labels:  # which checks its values on the CPU only
            before = self.waits.copy()
            result = func(*args, **kwargs)
            self.waits = before
            return result
        device = kwargs.get("device")
        if device is not None and is_cuda(device):
            kwargs["device"] = CPU
            if func is torch.as_tensor and isinstance(args[0], Tensor):
                return self._to(args[0], DEVICE, **{name: value for name, value in kwargs.items() if name == "dtype"})
            return self._label(func(*args, **kwargs))
        if device is not None and func is torch.as_tensor and isinstance(args[0], Tensor):
            return self._to(args[0], **kwargs)
        result = func(*args, **kwargs)
        if func is Tensor.new_tensor and device is None and args[0] in self.labels:
            self._label(result)
        return result

    def _label(self, result: Any) -> Any:
        def add_label(value: Any) -> Any:
            if isinstance(value, Tensor):
                self.labels.add(value)
            return value

        return tree_map(add_label, result)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("non_blocking", None)
        copy, device = kwargs.pop("copy", False), kwargs.pop("device", None)
        other_arguments = []
        for argument in args:
            if isinstance(argument, Tensor):
                device, other_arguments = self.device_of(argument), [*other_arguments, argument.dtype]
            elif isinstance(argument, (str, torch.device)):
                device = argument
            elif not isinstance(argument, bool) and argument is not None:
                other_arguments.append(argument)
        if other_arguments or kwargs or copy:
            tensor = tensor.to(*other_arguments, **kwargs, copy=copy) if other_arguments or kwargs else tensor.clone()
        return (
            tensor if device is None or torch.device(device).type not in ("cpu", "cuda") else self.move(tensor, device)
        )


class _Moved(torch.autograd.Function):
    "A copy with another label; gradients are moved back."

    @staticmethod
    def forward(ctx, tensor: Tensor, labels: Labels, to_device: bool) -> Tensor:
        ctx.labels, ctx.to_device = labels, to_device
        return _copied(tensor, labels, to_device)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        return _copied(gradient, ctx.labels, not ctx.to_device), None, None


def _copied(tensor: Tensor, labels: Labels, to_device: bool) -> Tensor:
    with torch._C._DisableTorchDispatch():
        other = tensor.clone()
    if to_device:
        labels.add(other)
    return other
