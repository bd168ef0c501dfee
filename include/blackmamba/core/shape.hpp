#pragma once
/// \file
/// Extents of a tensor, their product with overflow checked, and the one check that every operation makes on its arguments.

#include <limits>
#include <string>

#include <blackmamba/core/config.hpp>
#include <blackmamba/core/error.hpp>

namespace blackmamba {

/// Extents of a tensor of `Rank` dimensions, outermost first.
template <int Rank>
struct Shape {
  static_assert(Rank >= 1);
  Index extent[Rank]{};

  BLACKMAMBA_HOST_DEVICE constexpr Index operator[](int i) const { return extent[i]; }
  BLACKMAMBA_HOST_DEVICE constexpr Index& operator[](int i) { return extent[i]; }
  BLACKMAMBA_HOST_DEVICE friend constexpr bool operator==(Shape const& a, Shape const& b) {
    for (int i = 0; i < Rank; ++i)
      if (a.extent[i] != b.extent[i]) return false;
    return true;
  }
};
template <class... E>
Shape(E...) -> Shape<static_cast<int>(sizeof...(E))>;

/// "(2, 48, 256)"
template <int Rank>
std::string to_string(Shape<Rank> const& shape) {
  std::string out = "(";
  for (int i = 0; i < Rank; ++i) {
    if (i) out += ", ";
    detail::append(out, shape[i]);
  }
  return out + (Rank == 1 ? ",)" : ")");
}

/// Number of elements. Throws `shape_error` on a negative extent and on a product over 2^63 - 1.
template <int Rank>
constexpr Index element_count(Shape<Rank> const& shape) {
  Index count = 1;
  bool overflowed = false, empty = false;
  for (int i = 0; i < Rank; ++i) {
    if (shape[i] < 0) throw shape_error(concat("extent ", i, " of ", to_string(shape), " is negative"));
    // By division: the builtin that multiplies and checks is not constexpr under nvcc.
    if (shape[i] == 0)
      empty = true;
    else if (count > std::numeric_limits<Index>::max() / shape[i])
      overflowed = true;
    else
      count *= shape[i];
  }
  if (empty) return 0;
  if (overflowed) throw shape_error(concat("a tensor of shape ", to_string(shape), " has more than 2^63 - 1 elements"));
  return count;
}

/// `a` split into pieces of `b`, the last one possibly short. b > 0.
BLACKMAMBA_HOST_DEVICE constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

/// Throws "op: name has shape (…), from needs (…)" unless `actual == expected`.
/// \param from  the argument, or the words, that the expectation comes from
template <int Rank>
void check_shape(char const* op, char const* name, Shape<Rank> const& actual, Shape<Rank> const& expected, char const* from) {
  if (actual == expected) return;
  for (int i = 0; i < Rank; ++i)
    if (actual[i] != expected[i])
      throw shape_error(concat(op, ": ", name, " has shape ", to_string(actual), ", ", from, " asks for ", to_string(expected),
                               ": extent ", i, " is ", actual[i], ", not ", expected[i]));
}

/// Throws `value_error` "op: what" unless `condition`; `what` is built from `parts` only when it is needed.
template <class... Parts>
void check_value(bool condition, char const* op, Parts const&... parts) {
  if (!condition) throw value_error(concat(op, ": ", parts...));
}

}  // namespace blackmamba
