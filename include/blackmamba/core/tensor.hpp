#pragma once
/// \file
/// A tensor that owns its memory: for examples, tests and whoever has a tensor to keep. Operations take views.

#include <memory>
#include <new>

#include <blackmamba/core/arena.hpp>

namespace blackmamba {

/// Row-major host memory with a shape, all zeros at first. Moves; copies only when asked, by `clone()`.
template <class T, int Rank>
class Tensor {
 public:
  Tensor() : Tensor{Shape<Rank>{}} {}
  explicit Tensor(Shape<Rank> shape)
      : arena_{std::make_unique<Arena>(static_cast<std::size_t>(element_count(shape)) * sizeof(T))},
        view_{arena_->template take_zeros<T>(shape)} {}

  View<T, Rank> view() { return view_; }
  View<T const, Rank> view() const { return view_; }
  operator View<T, Rank>() { return view_; }
  operator View<T const, Rank>() const { return view_; }

  T* data() { return view_.data(); }
  T const* data() const { return view_.data(); }
  Shape<Rank> const& shape() const { return view_.shape(); }
  Index extent(int i) const { return view_.extent(i); }
  Index size() const { return view_.size(); }

  template <class... I>
  T& operator()(I... index) {
    return view_(index...);
  }
  template <class... I>
  T const& operator()(I... index) const {
    return view_(index...);
  }

  T* begin() { return data(); }
  T* end() { return data() + size(); }
  T const* begin() const { return data(); }
  T const* end() const { return data() + size(); }

  Tensor clone() const {
    Tensor copy{shape()};
    for (Index i = 0; i < size(); ++i) copy.data()[i] = data()[i];
    return copy;
  }

 private:
  std::unique_ptr<Arena> arena_;
  View<T, Rank> view_;
};

/// The same tensor in another scalar, each element rounded once.
template <class To, class From, int Rank>
Tensor<To, Rank> converted(View<From const, Rank> from) {
  Tensor<To, Rank> to{from.shape()};
  Index index[Rank]{};
  for (To& x : to) {
    Index offset = 0;
    for (int d = 0; d < Rank; ++d) offset += index[d] * from.stride(d);
    x = static_cast<To>(widen(from.data()[offset]));
    for (int d = Rank - 1; d >= 0 && ++index[d] == from.extent(d); --d) index[d] = 0;
  }
  return to;
}
template <class To, class From, int Rank>
Tensor<To, Rank> converted(Tensor<From, Rank> const& from) {
  return converted<To>(from.view());
}

}  // namespace blackmamba
