#pragma once
/// \file
/// The k strongest elements of a row by a heap with the weakest of them on top: O(D log k) at worst, and no memory but the heap.

#include <algorithm>

#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// The order of a row's elements: the larger value first, equal values by column. A strict total order as long as no value is NaN.
template <class T>
struct Stronger {
  View<T const, 1> x;
  bool operator()(int i, int j) const {
    auto const a = widen(x[i]), b = widen(x[j]);
    return a > b || (a == b && i < j);
  }
};

/// The `k` strongest elements of the order, found one element at a time in memory of the caller's.
template <class T>
class Strongest {
 public:
  Strongest(View<T const, 1> x, int* heap, Index k) : stronger_{x}, begin_{heap}, end_{heap + k} {
    for (Index i = 0; i < k; ++i) heap[i] = static_cast<int>(i);
    std::make_heap(begin_, end_, stronger_);
  }

  /// Element `i`, of those from k on, each once.
  void offer(Index i) {
    if (!stronger_(static_cast<int>(i), *begin_)) return;
    std::pop_heap(begin_, end_, stronger_);
    end_[-1] = static_cast<int>(i);
    std::push_heap(begin_, end_, stronger_);
  }

  /// The weakest that is still among them.
  int weakest() const { return *begin_; }

  /// Puts them in descending order; nothing can be offered afterwards.
  void sort() { std::sort_heap(begin_, end_, stronger_); }

 private:
  Stronger<T> stronger_;
  int *begin_, *end_;
};

/// For any scalar that compares: a `Dual` is NaN if its value is.
template <class A>
bool is_nan(A x) {
  return !(x == x);
}

/// The elements of `x` that `order` names, and their indices; `values` may be absent.
template <class T>
void write_row(View<T const, 1> x, int const* order, View<int, 1> indices, View<T, 1> values) {
  for (Index j = 0; j < indices.extent(0); ++j) {
    indices[j] = order[j];
    if (values) values[j] = x[order[j]];
  }
}

/// Throws for the first NaN in the rows from `r` on.
template <class T>
void refuse_nan(char const* op, View<T const, 2> x, Index r) {
  for (; r < x.extent(0); ++r)
    for (Index i = 0; i < x.extent(1); ++i) check_value(!is_nan(widen(x(r, i))), op, "x(", r, ", ", i, ") is NaN");
}

}  // namespace blackmamba::detail
