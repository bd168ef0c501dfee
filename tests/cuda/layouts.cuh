#pragma once
// Matrices on a GPU in memory of many layouts, with marks around them that must stay.

#include <blackmamba/verify/check.hpp>

#include "cuda/support.cuh"

namespace test {

enum class Layout { contiguous, shifted, padded, padded_aligned, transposed, last = transposed };

inline void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// A matrix of a layout in memory of its own, all bits of which are set where the matrix is not.
template <class T>
class Laid {
 public:
  Laid(Cuda const& ctx, Tensor<T, 2> const& from, Layout layout)
      : ctx_{ctx}, shape_{from.shape()}, layout_{layout}, host_{Shape{elements()}}, memory_{ctx, host_.shape()} {
    std::memset(static_cast<void*>(host_.data()), 0xff, static_cast<std::size_t>(host_.size()) * sizeof(T));
    auto const to = seen(host_.data());
    for (Index r = 0; r < shape_[0]; ++r)
      for (Index c = 0; c < shape_[1]; ++c) to(r, c) = from(r, c);
    upload(ctx, host_.view(), memory_.view());
  }

  View<T, 2> view() const { return seen(memory_.data()); }

  /// The matrix as it is now. Checks that nothing beside it was written.
  Tensor<T, 2> result() {
    auto const now = to_host(ctx_, memory_);
    auto const from = seen(const_cast<T*>(now.data()));
    auto const marks = seen(host_.data());
    Tensor<T, 2> out{shape_};
    for (Index r = 0; r < shape_[0]; ++r)
      for (Index c = 0; c < shape_[1]; ++c) marks(r, c) = out(r, c) = from(r, c);
    CHECK(same_bits(now, host_));
    return out;
  }

 private:
  Index elements() const { return (shape_[0] + 1) * (shape_[1] + 32) + 1; }
  View<T, 2> seen(T* data) const {
    switch (layout_) {
      case Layout::contiguous:
        return {data, shape_};
      case Layout::shifted:
        return {data + 1, shape_};
      case Layout::padded:
        return {data, shape_, Shape<2>{shape_[1] + 3, 1}};
      case Layout::padded_aligned:
        return {data + 16, shape_, Shape<2>{(shape_[1] + 15) / 16 * 16, 1}};
      case Layout::transposed:
        return {data, shape_, Shape<2>{1, shape_[0]}};
    }
    return {};
  }

  Cuda ctx_;
  Shape<2> shape_;
  Layout layout_;
  Tensor<T, 1> host_;
  DeviceTensor<T, 1> memory_;
};

/// Calls `body` with each layout, as the first and the second of two that go through all pairs of neighbours.
template <class Body>
void for_layouts(Body const& body) {
  constexpr int count = static_cast<int>(Layout::last) + 1;
  for (int i = 0; i < count; ++i)
    for (int step : {0, 1}) body(static_cast<Layout>(i), static_cast<Layout>((i + step) % count));
}

}  // namespace test
