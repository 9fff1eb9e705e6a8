"""A stand-in for a CUDA device on a machine without one: real numbers, and a label that says where each would lie.

Everything is computed by the CPU. What would be a tensor on the device is labelled 'cuda', by its storage, so that
views and what autograd keeps have the label, too. An operation that mixes both kinds is refused where PyTorch
refuses it on a real device: anything but copies, zero-dimensional numbers in elementwise operations, and indices on
the CPU into a tensor on the device. What would make the program wait for the device is counted.
"""

from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
COPIES = ("aten::copy_", "aten::_to_copy", "aten::set_", "aten::lift_fresh", "aten::_foreach_copy_")
WAITS = {  # operations of which a CUDA device can only tell the size, or the answer, when it has finished
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
    "What a real device would refuse."


def is_cuda(device: Any) -> bool:
    "Whether the device, as a name, a number or a torch.device, is the stand-in."
    return device is not None and (isinstance(device, int) or torch.device(device).type == "cuda")


def storage_of(tensor: Tensor) -> Any:
    "The storage of the tensor, of one that vmap has wrapped that of what it wraps; None where there is none."
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()
    except NotImplementedError:
        return None


class Labels:
    "Some storages."

    def __init__(self):
        self.known: dict[int, StorageWeakRef] = {}  # a weak reference keeps its address from being used again

    def add(self, tensor: Tensor) -> None:
        "Label the tensor's storage."
        storage = storage_of(tensor)
        if storage is None:
            return
        self.known[storage._cdata] = StorageWeakRef(storage)
        if len(self.known) % 4096 == 0:
            self.known = {address: kept for address, kept in self.known.items() if not kept.expired()}

    def __contains__(self, tensor: Tensor) -> bool:
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            storage = storage_of(tensor)
        return storage is not None and storage._cdata in self.known


class _Operations(TorchDispatchMode):
    "Refuse mixed devices, label results, count waits."

    def __init__(self, owner: "StandIn"):
        super().__init__()
        self.owner = owner
        self.unsaid = Labels()  # made inside PyTorch without saying where: with what they meet

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, labels = kwargs or {}, self.owner.labels
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        name = func._schema.name
        if not tensors and not self.owner.asked:
            result = func(*args, **kwargs)
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self.unsaid.add(one)
            return result
        where = [one in labels for one in tensors]
        if not any(where):
            result = func(*args, **kwargs)
            if tensors and all(one in self.unsaid for one in tensors):
                for one in tree_leaves(result):
                    if isinstance(one, Tensor):
                        self.unsaid.add(one)
            return result
        if name not in COPIES and not all(where):
            self._refuse_mixed(func, name, args, tensors, where)
        self._count(name, args)
        result = func(*args, **kwargs)
        if name in COPIES and not where[0]:
            return result
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one not in labels:
                labels.add(one)
        return result

    def _count(self, name: str, args: tuple) -> None:
        if name in WAITS:
            self.owner.waits[name.removeprefix("aten::")] += 1
        if name in INDEXED and any(
            isinstance(one, Tensor) and one.dtype == torch.bool and one in self.owner.labels for one in args[1]
        ):
            self.owner.waits["boolean index"] += 1
        if name == "aten::copy_" and args[0] not in self.owner.labels:
            self.owner.waits["copy to the CPU"] += 1

    def _refuse_mixed(self, func, name: str, args: tuple, tensors: list[Tensor], where: list[bool]) -> None:
        apart = [(k, one) for k, (one, there) in enumerate(zip(tensors, where)) if not there and one not in self.unsaid]
        if name in INDEXED:
            indices = {id(one) for one in args[1] if isinstance(one, Tensor)}
            apart = [(k, one) for k, one in apart if not (id(one) in indices and where[0])]
        numbers = torch.Tag.pointwise in func.tags or name in INDEXED
        changed = func._schema.is_mutable
        apart = [(k, one) for k, one in apart if not (numbers and one.ndim == 0 and not (changed and k == 0))]
        if apart:
            shapes = ", ".join(
                f"{tuple(one.shape)} on {'cuda' if there else 'cpu'}" for one, there in zip(tensors, where)
            )
            raise MixedDevices(f"{func}: expected all tensors to be on the same device, but found {shapes}")


class StandIn(TorchFunctionMode):
    "A context in which 'cuda' is a device. Its `waits` counts by kind what would wait for the device."

    def __init__(self):
        super().__init__()
        self.labels, self.waits = Labels(), Counter()
        self.asked = False  # whether the program itself asks for a new tensor

    def __enter__(self) -> "StandIn":
        self._open = ExitStack()
        self._open.enter_context(
            patch.object(torch.autograd, "has_torch_function", lambda tensors: False)
        )  # rules of gradients run inside, too
        self._open.enter_context(
            patch.object(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        )  # there is no cuDNN
        self._open.enter_context(
            patch.object(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", self._grouped)
        )  # which is told the true device by C++
        self._open.enter_context(_Operations(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._open.close()

    def _grouped(self, lists: list[list[Tensor]], with_indices: bool = False) -> dict:
        "Group tensors by the device that they say they are on, and by type, as PyTorch does by their true device."
        grouped: dict = {}
        for place, row in enumerate(zip(*lists)):
            own, places = grouped.setdefault((self.device_of(row[0]), row[0].dtype), ([[] for _ in lists], []))
            for column, tensor in zip(own, row):
                column.append(tensor)
            places.append(place)
        return grouped

    @contextmanager
    def again(self) -> Iterator[None]:
        "Return into the context from inside one of its own functions."
        TorchFunctionMode.__enter__(self)
        try:
            yield
        finally:
            TorchFunctionMode.__exit__(self, None, None, None)

    def device_of(self, tensor: Tensor) -> torch.device:
        "Return the device that the tensor says it is on."
        return DEVICE if tensor in self.labels else tensor.device

    def moved(self, tensor: Tensor, device: Any, copy: bool = False) -> Tensor:
        "Return the tensor on the device, a copy where it is not there already."
        there, wanted = tensor in self.labels, is_cuda(device)
        if there == wanted:
            return tensor.clone() if copy else tensor
        if there:
            self.waits["copy to the CPU"] += 1
        with torch._C._DisableTorchDispatch():
            other = _Moved.apply(tensor, self.labels, wanted)
        return other

    def __torch_function__(self, func, types, args=(), kwargs=None):
        before, self.asked = self.asked, not any(isinstance(one, Tensor) for one in tree_leaves((args, kwargs)))
        try:
            return self._run(func, args, dict(kwargs or {}))
        finally:
            self.asked = before

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
            return self.moved(args[0], DEVICE)
        if func is Tensor.cpu:
            return self.moved(args[0], CPU)
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
        if func in NUMBERS and args[0] in self.labels:  # which operations are asked differs with inference mode
            before = self.waits.copy()
            found = func(*args, **kwargs)
            self.waits = before
            self.waits["number"] += 1
            return found
        if func in (Tensor.is_pinned, Tensor.pin_memory):
            return False if func is Tensor.is_pinned else args[0]
        if func is torch.nn.functional.one_hot and args[0] in self.labels:  # which checks its values on the CPU alone
            before = self.waits.copy()
            found = func(*args, **kwargs)
            self.waits = before
            return found
        asked = kwargs.get("device")
        if asked is not None and is_cuda(asked):
            kwargs["device"] = CPU
            if func is torch.as_tensor and isinstance(args[0], Tensor):
                return self._to(args[0], DEVICE, **{name: value for name, value in kwargs.items() if name == "dtype"})
            return self._labelled(func(*args, **kwargs))
        if asked is not None and func is torch.as_tensor and isinstance(args[0], Tensor):
            return self._to(args[0], **kwargs)
        found = func(*args, **kwargs)
        if func is Tensor.new_tensor and asked is None and args[0] in self.labels:
            self._labelled(found)
        return found

    def _labelled(self, found: Any) -> Any:
        def label(one: Any) -> Any:
            if isinstance(one, Tensor):
                self.labels.add(one)
            return one

        return tree_map(label, found)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("non_blocking", None)
        copy, device = kwargs.pop("copy", False), kwargs.pop("device", None)
        rest = []
        for one in args:
            if isinstance(one, Tensor):
                device, rest = self.device_of(one), [*rest, one.dtype]
            elif isinstance(one, (str, torch.device)):
                device = one
            elif not isinstance(one, bool) and one is not None:
                rest.append(one)
        if rest or kwargs or copy:
            tensor = tensor.to(*rest, **kwargs, copy=copy) if rest or kwargs else tensor.clone()
        return (
            tensor if device is None or torch.device(device).type not in ("cpu", "cuda") else self.moved(tensor, device)
        )


class _Moved(torch.autograd.Function):
    "A copy with another label; gradients go back where they belong."

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
