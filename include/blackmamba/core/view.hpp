#pragma once
/// \file
/// A pointer with extents and strides: how every operation sees its tensors. Owns nothing, is trivially copyable, and goes to
/// a kernel by value.

#include <type_traits>

#include <blackmamba/core/scalar.hpp>
#include <blackmamba/core/shape.hpp>

namespace blackmamba {

/// `Rank`-dimensional window on memory that somebody else owns. Strides count elements; any stride is legal, zero included
/// (a broadcast), and a view of contiguous memory is row-major.
///
/// A default-constructed view is *absent* and converts to false: that is how an operation's optional arguments are left out.
template <class T, int Rank>
class View {
  static_assert(Rank >= 1);

 public:
  using element = T;
  using value_type = std::remove_const_t<T>;
  static constexpr int rank = Rank;

  View() = default;

  /// Row-major over contiguous memory.
  BLACKMAMBA_HOST_DEVICE constexpr View(T* data, Shape<Rank> shape) : data_{data}, shape_{shape} {
    Index stride = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      stride_[i] = stride;
      stride *= shape[i];
    }
  }
  BLACKMAMBA_HOST_DEVICE constexpr View(T* data, Shape<Rank> shape, Shape<Rank> stride)
      : data_{data}, shape_{shape}, stride_{stride} {}

  /// A view of T is a view of const T.
  template <class U>
  requires(std::is_same_v<T, U const> && !std::is_const_v<U>) BLACKMAMBA_HOST_DEVICE constexpr View(View<U, Rank> const& other)
      : data_{other.data()}, shape_{other.shape()}, stride_{other.strides()} {}

  BLACKMAMBA_HOST_DEVICE constexpr explicit operator bool() const { return data_ != nullptr; }

  BLACKMAMBA_HOST_DEVICE constexpr T* data() const { return data_; }
  BLACKMAMBA_HOST_DEVICE constexpr Shape<Rank> const& shape() const { return shape_; }
  BLACKMAMBA_HOST_DEVICE constexpr Shape<Rank> const& strides() const { return stride_; }
  BLACKMAMBA_HOST_DEVICE constexpr Index extent(int i) const { return shape_[i]; }
  BLACKMAMBA_HOST_DEVICE constexpr Index stride(int i) const { return stride_[i]; }
  BLACKMAMBA_HOST_DEVICE constexpr Index size() const {
    Index n = 1;
    for (int i = 0; i < Rank; ++i) n *= shape_[i];
    return n;
  }

  template <class... I>
  requires(sizeof...(I) == Rank) BLACKMAMBA_HOST_DEVICE constexpr T& operator()(I... index) const {
    Index const at[]{static_cast<Index>(index)...};
    Index offset = 0;
    for (int i = 0; i < Rank; ++i) offset += at[i] * stride_[i];
    return data_[offset];
  }

  /// Rank 1: element i. Otherwise the view at index i of the outermost dimension.
  BLACKMAMBA_HOST_DEVICE constexpr decltype(auto) operator[](Index i) const {
    if constexpr (Rank == 1) {
      return static_cast<T&>(data_[i * stride_[0]]);
    } else {
      Shape<Rank - 1> shape, stride;
      for (int d = 1; d < Rank; ++d) {
        shape[d - 1] = shape_[d];
        stride[d - 1] = stride_[d];
      }
      return View<T, Rank - 1>{data_ + i * stride_[0], shape, stride};
    }
  }

  /// `count` indices of dimension `dim`, from `begin` on.
  BLACKMAMBA_HOST_DEVICE constexpr View slice(int dim, Index begin, Index count) const {
    View out = *this;
    out.data_ += begin * stride_[dim];
    out.shape_[dim] = count;
    return out;
  }

  /// Dimensions `a` and `b` exchanged; no memory moves.
  BLACKMAMBA_HOST_DEVICE constexpr View transposed(int a, int b) const {
    View out = *this;
    out.shape_[a] = shape_[b], out.shape_[b] = shape_[a];
    out.stride_[a] = stride_[b], out.stride_[b] = stride_[a];
    return out;
  }

  /// Whether the elements lie row-major without gaps. Extents of 1 may have any stride.
  BLACKMAMBA_HOST_DEVICE constexpr bool contiguous() const { return contiguous_from(0); }

  /// Whether each index of the outer dimension is contiguous inside (a matrix with a row stride, say).
  BLACKMAMBA_HOST_DEVICE constexpr bool contiguous_rows() const { return contiguous_from(Rank - 1); }

  /// The same contiguous memory under another shape of as many elements. Throws `shape_error` otherwise.
  template <int NewRank>
  constexpr View<T, NewRank> reshaped(Shape<NewRank> shape) const {
    if (element_count(shape) != size() || !contiguous())
      throw shape_error(concat("a ", contiguous() ? "contiguous" : "strided", " view of shape ", to_string(shape_),
                               " cannot be seen as ", to_string(shape)));
    return {data_, shape};
  }

  /// All dimensions but the last folded into one, (…, D) as (rows, D). Needs the outer dimensions to fold: a stride between
  /// rows is fine, one between batches that is not its multiple is not. Throws `shape_error`.
  constexpr View<T, 2> rows() const {
    if constexpr (Rank == 1) {
      return {data_, Shape<2>{1, shape_[0]}, Shape<2>{shape_[0], stride_[0]}};
    } else {
      // From the innermost outwards; extents of 1 fold with any stride.
      Index count = 1, step = stride_[Rank - 2];
      bool folds = true;
      for (int i = Rank - 2; i >= 0; --i) {
        if (shape_[i] == 1) continue;
        if (count == 1)
          step = stride_[i];
        else
          folds = folds && stride_[i] == step * count;
        count *= shape_[i];
      }
      if (!folds && count > 0)
        throw shape_error(
            concat("a view of shape ", to_string(shape_), " and strides ", to_string(stride_), " does not fold into rows"));
      return {data_, Shape<2>{count, shape_[Rank - 1]}, Shape<2>{step, stride_[Rank - 1]}};
    }
  }

 private:
  BLACKMAMBA_HOST_DEVICE constexpr bool contiguous_from(int first) const {
    Index expected = 1;
    for (int i = Rank - 1; i >= first; --i) {
      if (shape_[i] != 1 && stride_[i] != expected) return false;
      expected *= shape_[i];
    }
    return true;
  }

  T* data_ = nullptr;
  Shape<Rank> shape_{};
  Shape<Rank> stride_{};
};

/// (…, G · N) as (…, G, N): the last dimension split, no memory moves. `G` must divide it.
template <class T, int Rank>
constexpr View<T, Rank + 1> split_last(View<T, Rank> const& view, Index G) {
  Shape<Rank + 1> shape, stride;
  for (int i = 0; i < Rank; ++i) shape[i] = view.extent(i), stride[i] = view.stride(i);
  shape[Rank - 1] = G;
  shape[Rank] = view.extent(Rank - 1) / G;
  stride[Rank] = view.stride(Rank - 1);
  stride[Rank - 1] = shape[Rank] * stride[Rank];
  return {view.data(), shape, stride};
}

/// `check_shape` for a view.
template <class T, int Rank>
void check_shape(char const* op, char const* name, View<T, Rank> const& view, Shape<Rank> const& expected, char const* from) {
  check_shape(op, name, view.shape(), expected, from);
}

}  // namespace blackmamba
