#pragma once
/// \file
/// What a file says of one tensor, after every number in it has been checked against the file.

#include <string>
#include <string_view>
#include <vector>

#include <blackmamba/core/error.hpp>
#include <blackmamba/io/dtype.hpp>

namespace blackmamba::io {

/// One stored tensor. `data` points into the mapped file; every element that `shape` and `strides` reach lies within `bytes`.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Index> shape;         ///< outermost first; empty for a single number
  std::vector<Index> strides;       ///< in elements; row-major in safetensors, anything in a torch checkpoint
  std::byte const* data = nullptr;  ///< of any alignment
  Index bytes = 0;                  ///< from `data` to the end of the last element
  std::string file;                 ///< where it lies, for messages

  Index elements() const {
    Index count = 1;
    for (Index const extent : shape) count *= extent;
    return count;
  }
};

/// "(2, 48, 256)"; "()" for a single number.
inline std::string to_string(std::vector<Index> const& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) out += ", ";
    blackmamba::detail::append(out, shape[i]);
  }
  return out + (shape.size() == 1 ? ",)" : ")");
}

namespace detail {

/// A name from a file as a message may show it: quoted, control characters replaced, cut when it is long.
inline std::string in_quotes(std::string_view name) {
  constexpr std::size_t longest = 120;
  std::string out = "'";
  for (char const c : name.substr(0, longest)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (name.size() > longest) out += "…";
  return out + "'";
}

/// Row-major strides of a checked shape.
inline std::vector<Index> row_major(std::vector<Index> const& shape) {
  std::vector<Index> strides(shape.size());
  Index step = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

/// Elements of a shape, or -1 if an extent is negative or the product of those that are not 0 does not fit: then no stride does.
inline Index checked_elements(std::vector<Index> const& shape) {
  Index product = 1;
  bool empty = false;
  for (Index const extent : shape) {
    if (extent < 0) return -1;
    if (extent == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, extent, &product))
      return -1;
  }
  return empty ? 0 : product;
}

}  // namespace detail

}  // namespace blackmamba::io
