// One launch over many tensors: each has so many blocks, one tensor's after another's.
#pragma once
#include "device.cuh"

/// The tensor that this block is of; `block` is the number of each one's first, ascending.
template <class Tensor>
DEVICE const Tensor& tensor_of_block(const Tensor* tensors, i32 count) {
    i32 low = 0, high = count;
    while (high - low > 1) {
        i32 middle = (low + high) / 2;
        if (tensors[middle].block <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return tensors[low];
}
