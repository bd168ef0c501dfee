#pragma once
/// \file
/// Tensors on a GPU, and the way there and back.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/tensor.hpp>

namespace blackmamba {

/// Row-major device memory with a shape, uninitialised. Moves.
template <class T, int Rank>
class DeviceTensor {
 public:
  DeviceTensor(Cuda const& ctx, Shape<Rank> shape)
      : ctx_{ctx}, arena_{std::make_unique<Arena>(ctx.memory())}, view_{arena_->template take<T>(shape)} {}

  View<T, Rank> view() const { return view_; }
  operator View<T, Rank>() const { return view_; }
  operator View<T const, Rank>() const { return view_; }
  T* data() const { return view_.data(); }
  Shape<Rank> const& shape() const { return view_.shape(); }
  Index size() const { return view_.size(); }

 private:
  Cuda ctx_;  // the arena's memory resource lives there
  std::unique_ptr<Arena> arena_;
  View<T, Rank> view_;
};

namespace detail {

inline void copy_bytes(Cuda const& ctx, void* to, void const* from, Index bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  DeviceScope const scope{ctx.device()};
  check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, ctx.stream()), "cudaMemcpyAsync");
}

}  // namespace detail

/// Copies a host tensor of any strides into contiguous device memory of its shape. The host memory may be reused at once.
/// Throws `shape_error` if the shapes differ or `to` is not contiguous.
template <class T, int Rank>
void copy_to_device(Cuda const& ctx, View<T const, Rank> from, View<T, Rank> to) {
  check_shape("copy_to_device", "to", to, from.shape(), "from");
  if (!from.contiguous()) {
    Tensor<T, Rank> const contiguous = converted<T>(from);
    return copy_to_device(ctx, contiguous.view(), to);
  }
  to = to.reshaped(to.shape());
  detail::copy_bytes(ctx, to.data(), from.data(), from.size() * static_cast<Index>(sizeof(T)), cudaMemcpyHostToDevice);
  ctx.synchronize();
}

/// A copy on the device.
template <class T, int Rank>
DeviceTensor<T, Rank> to_device(Cuda const& ctx, View<T const, Rank> from) {
  DeviceTensor<T, Rank> out{ctx, from.shape()};
  copy_to_device(ctx, from, out.view());
  return out;
}
template <class T, int Rank>
DeviceTensor<T, Rank> to_device(Cuda const& ctx, Tensor<T, Rank> const& from) {
  return to_device(ctx, from.view());
}

/// A copy on the host of contiguous device memory, after everything queued has run. Throws `shape_error` if it is not contiguous.
template <class T, int Rank>
Tensor<std::remove_const_t<T>, Rank> to_host(Cuda const& ctx, View<T, Rank> from) {
  Tensor<std::remove_const_t<T>, Rank> out{from.shape()};
  from = from.reshaped(from.shape());
  detail::copy_bytes(ctx, out.data(), from.data(), from.size() * static_cast<Index>(sizeof(T)), cudaMemcpyDeviceToHost);
  ctx.synchronize();
  return out;
}
template <class T, int Rank>
Tensor<T, Rank> to_host(Cuda const& ctx, DeviceTensor<T, Rank> const& from) {
  return to_host(ctx, from.view());
}

}  // namespace blackmamba
