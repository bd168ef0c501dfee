#pragma once
/// \file
/// A tensor that owns its memory: for examples, tests and whoever has a tensor to keep. Operations take views.
///
/// `Tensor` is on the host, `TensorOn<Ctx, T, Rank>` where the context computes; `upload` and `download` copy between the two, so
/// that code over any context says once what moves. On contexts of the host they copy from memory to memory.

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/parallel.hpp>

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

/// Row-major memory of a context with a shape, all zeros at first. Moves.
template <Context Ctx, class T, int Rank>
class TensorOn {
 public:
  TensorOn(Ctx const& ctx, Shape<Rank> shape)
      : ctx_{ctx}, arena_{std::make_unique<Arena>(ctx_.memory())}, view_{arena_->template take_zeros<T>(shape)} {}

  View<T, Rank> view() const { return view_; }
  operator View<T, Rank>() const { return view_; }
  operator View<T const, Rank>() const { return view_; }
  T* data() const { return view_.data(); }
  Shape<Rank> const& shape() const { return view_.shape(); }
  Index extent(int i) const { return view_.extent(i); }
  Index size() const { return view_.size(); }

 private:
  Ctx ctx_;  // which the arena's memory may belong to
  std::unique_ptr<Arena> arena_;
  View<T, Rank> view_;
};

namespace detail {

template <class T, int Rank>
void check_copy(char const* op, View<T, Rank> const& from, View<T, Rank> const& to) {
  check_shape(op, "to", to, from.shape(), "from");
  check_value(from.contiguous() && to.contiguous(), op, "strides of ", to_string(from.strides()), " and ", to_string(to.strides()),
              ", where both sides must be contiguous");
}

template <class T, int Rank>
std::size_t byte_count(View<T, Rank> const& view) {
  return static_cast<std::size_t>(view.size()) * sizeof(T);
}

}  // namespace detail

/// Copies contiguous host memory into contiguous memory of a context. The host's may be reused at once. Throws `shape_error` where
/// the shapes differ, `value_error` on gaps.
template <std::derived_from<Reference> Ctx, class T, int Rank>
void upload(Ctx const&, std::type_identity_t<View<T const, Rank>> from, View<T, Rank> to) {
  detail::check_copy("upload", from, View<T const, Rank>{to});
  if (from.size() > 0) std::memcpy(to.data(), from.data(), detail::byte_count(from));
}

/// Copies contiguous memory of a context to contiguous host memory, once everything queued has run; throws like `upload`, and what
/// `synchronize` throws.
template <std::derived_from<Reference> Ctx, class T, int Rank>
void download(Ctx const&, std::type_identity_t<View<T const, Rank>> from, View<T, Rank> to) {
  detail::check_copy("download", from, View<T const, Rank>{to});
  if (from.size() > 0) std::memcpy(to.data(), from.data(), detail::byte_count(from));
}

/// The same, as a tensor of the host.
template <Context Ctx, class T, int Rank>
Tensor<std::remove_const_t<T>, Rank> download(Ctx const& ctx, View<T, Rank> from) {
  Tensor<std::remove_const_t<T>, Rank> out{from.shape()};
  download(ctx, from, out.view());
  return out;
}

/// What the host can read of a tensor: itself on contexts of the host, elsewhere a copy of it, for which this waits.
template <std::derived_from<Reference> Ctx, class T, int Rank>
View<T const, Rank> on_host(Ctx const&, View<T, Rank> view) {
  return view;
}
template <Context Ctx, class T, int Rank>
requires(!std::derived_from<Ctx, Reference>) Tensor<std::remove_const_t<T>, Rank> on_host(Ctx const& ctx, View<T, Rank> view) {
  return download(ctx, view);
}

/// Copies contiguous memory of a context to other contiguous memory of it. Does not wait.
template <std::derived_from<Reference> Ctx, class T, int Rank>
void copy_within(Ctx const&, std::type_identity_t<View<T const, Rank>> from, View<T, Rank> to) {
  detail::check_copy("copy_within", from, View<T const, Rank>{to});
  if (from.size() > 0) std::memcpy(to.data(), from.data(), detail::byte_count(from));
}

/// Sets contiguous memory of a context to zeros (all bits zero). Does not wait. Throws `value_error` on gaps.
template <Context Ctx, class T, int Rank>
void set_zero(Ctx const& ctx, View<T, Rank> view) {
  check_value(view.contiguous(), "set_zero", "strides of ", to_string(view.strides()), ", where memory must be contiguous");
  auto const memory = ctx.memory();
  parallel_ranges(ctx.threads(), view.size(), Index{1} << 20, [&](Index begin, Index end) {
    memory.zero(memory.owner, view.data() + begin, static_cast<std::size_t>(end - begin) * sizeof(T));
  });
}

}  // namespace blackmamba
