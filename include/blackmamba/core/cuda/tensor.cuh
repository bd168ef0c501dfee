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

/// Host memory to the device; waits, so the host's may be reused at once.
template <class T, int Rank>
void upload(Cuda const& ctx, std::type_identity_t<View<T const, Rank>> from, View<T, Rank> to) {
  detail::check_copy("upload", from, View<T const, Rank>{to});
  detail::copy_bytes(ctx, to.data(), from.data(), static_cast<Index>(detail::byte_count(from)), cudaMemcpyHostToDevice);
  ctx.synchronize();
}

/// Device memory to the host, once everything queued has run.
template <class T, int Rank>
void download(Cuda const& ctx, std::type_identity_t<View<T const, Rank>> from, View<T, Rank> to) {
  detail::check_copy("download", from, View<T const, Rank>{to});
  detail::copy_bytes(ctx, to.data(), from.data(), static_cast<Index>(detail::byte_count(from)), cudaMemcpyDeviceToHost);
  ctx.synchronize();
}

/// Device memory to device memory. Does not wait.
template <class T, int Rank>
void copy_within(Cuda const& ctx, std::type_identity_t<View<T const, Rank>> from, View<T, Rank> to) {
  detail::check_copy("copy_within", from, View<T const, Rank>{to});
  detail::copy_bytes(ctx, to.data(), from.data(), static_cast<Index>(detail::byte_count(from)), cudaMemcpyDeviceToDevice);
}

/// A copy on the device of a host tensor of any strides.
template <class T, int Rank>
DeviceTensor<T, Rank> to_device(Cuda const& ctx, View<T const, Rank> from) {
  DeviceTensor<T, Rank> out{ctx, from.shape()};
  if (from.contiguous())
    upload(ctx, from, out.view());
  else
    upload(ctx, converted<T>(from).view(), out.view());
  return out;
}
template <class T, int Rank>
DeviceTensor<T, Rank> to_device(Cuda const& ctx, Tensor<T, Rank> const& from) {
  return to_device(ctx, from.view());
}

/// `download`, of whatever converts to a view too.
template <class T, int Rank>
Tensor<std::remove_const_t<T>, Rank> to_host(Cuda const& ctx, View<T, Rank> from) {
  return download(ctx, from);
}
template <class T, int Rank>
Tensor<T, Rank> to_host(Cuda const& ctx, DeviceTensor<T, Rank> const& from) {
  return to_host(ctx, from.view());
}

}  // namespace blackmamba
