#pragma once
/// \file
/// The element types that checkpoints store, and the conversion of their bytes into the library's scalars.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <blackmamba/core/error.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/simd.hpp>

namespace blackmamba::io {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian, and so must the machine be");

/// Element type of a stored tensor.
enum class DType { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

inline constexpr std::array all_dtypes{DType::f64,     DType::f32, DType::f16, DType::bf16, DType::f8_e4m3,
                                       DType::f8_e5m2, DType::i64, DType::i32, DType::i16,  DType::i8,
                                       DType::u64,     DType::u32, DType::u16, DType::u8,   DType::boolean};

/// OCP 8-bit floats (Micikevicius et al. 2022, arXiv:2209.05433): read, never computed with.
struct f8_e4m3 {
  std::uint8_t bits;
  /// 4 exponent bits of bias 7, no infinities: only the two largest patterns are NaN.
  constexpr explicit operator float() const {
    float const sign = bits & 0x80 ? -1.0f : 1.0f;
    int const exponent = bits >> 3 & 15, fraction = bits & 7;
    if (exponent == 15 && fraction == 7) return std::numeric_limits<float>::quiet_NaN();
    float const scale = __builtin_bit_cast(float, static_cast<std::uint32_t>(std::max(exponent, 1) - 7 - 3 + 127) << 23);
    return sign * scale * static_cast<float>((exponent ? 8 : 0) + fraction);
  }
};
struct f8_e5m2 {
  std::uint8_t bits;
  /// The upper byte of an IEEE half.
  constexpr explicit operator float() const { return half::from_bits(static_cast<std::uint16_t>(bits << 8)); }
};

/// Calls `f` with a value of the type that `dtype` names (`bool` for boolean) and returns its answer.
template <class F>
constexpr decltype(auto) visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::f32:
      return f(float{});
    case DType::f16:
      return f(half{});
    case DType::bf16:
      return f(bf16{});
    case DType::f8_e4m3:
      return f(f8_e4m3{});
    case DType::f8_e5m2:
      return f(f8_e5m2{});
    case DType::i64:
      return f(std::int64_t{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::i16:
      return f(std::int16_t{});
    case DType::i8:
      return f(std::int8_t{});
    case DType::u64:
      return f(std::uint64_t{});
    case DType::u32:
      return f(std::uint32_t{});
    case DType::u16:
      return f(std::uint16_t{});
    case DType::u8:
      return f(std::uint8_t{});
    case DType::boolean:
      break;
  }
  return f(bool{});
}

/// Bytes of one element.
constexpr Index size_of(DType dtype) {
  return visit(dtype, []<class S>(S) { return static_cast<Index>(sizeof(S)); });
}

/// The name that safetensors headers use, which is also ours.
constexpr std::string_view to_string(DType dtype) {
  constexpr std::string_view names[]{"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32",
                                     "I16", "I8",  "U64", "U32",  "U16",     "U8",      "BOOL"};
  return names[static_cast<int>(dtype)];
}
constexpr std::optional<DType> dtype_from_name(std::string_view name) {
  for (DType const dtype : all_dtypes)
    if (to_string(dtype) == name) return dtype;
  return std::nullopt;
}

constexpr bool is_floating(DType dtype) { return dtype <= DType::f8_e5m2; }

/// The element type under which the library stores a scalar.
template <class T>
constexpr DType dtype_of() {
  for (DType const dtype : all_dtypes)
    if (visit(dtype, []<class S>(S) {
          return std::is_same_v<S, T> ||
                 (std::integral<S> && std::integral<T> && !std::same_as<S, bool> && !std::same_as<T, bool> &&
                  sizeof(S) == sizeof(T) && std::is_signed_v<S> == std::is_signed_v<T>);
        }))
      return dtype;
  throw value_error("this scalar has no element type in a file");
}

namespace detail {

/// An integer as a double that rounds to at most 24 bits as the integer itself would: the bits that a double has no room for
/// are folded into the last one that it keeps.
constexpr double narrowable(std::int64_t x) {
  std::int64_t const low = 0x7ff;
  bool const fits = -(std::int64_t{1} << 53) <= x && x <= (std::int64_t{1} << 53);
  return static_cast<double>(fits ? x : (x & ~low) | ((x & low) != 0 ? low + 1 : 0));
}
constexpr double narrowable(std::uint64_t x) {
  std::uint64_t const low = 0x7ff;
  bool const fits = x <= (std::uint64_t{1} << 53);
  return static_cast<double>(fits ? x : (x & ~low) | ((x & low) != 0 ? low + 1 : 0));
}

/// One element, rounded at most once.
template <class T, class S>
T convert_one(S x) {
  if constexpr (std::is_same_v<T, S>) {
    return x;
  } else if constexpr (std::integral<T>) {
    static_assert(std::integral<S>);
    if constexpr (!std::is_same_v<S, bool>)
      if (!std::in_range<T>(x))
        throw value_error(concat("the value ", x, " does not fit into an integer of ", 8 * sizeof(T), " bits"));
    return static_cast<T>(x);
  } else if constexpr (std::is_same_v<S, bool>) {
    return static_cast<T>(static_cast<accumulator_t<T>>(x ? 1.0f : 0.0f));
  } else if constexpr (std::integral<S>) {
    if constexpr (std::is_same_v<T, half> || std::is_same_v<T, bf16>) {
      if constexpr (sizeof(S) == 8) return static_cast<T>(narrowable(x));
    }
    return static_cast<T>(x);
  } else if constexpr (std::is_same_v<S, double>) {
    return static_cast<T>(x);
  } else {
    return static_cast<T>(static_cast<float>(x));
  }
}

/// `count` elements of `S` at any address.
template <class T, class S>
void convert_run(std::byte const* from, T* to, Index count) {
  constexpr Index block = 1024;
  alignas(32) S staged[block];
  for (Index begin = 0; begin < count; begin += block) {
    Index const n = std::min(block, count - begin);
    if constexpr (std::is_same_v<S, bool>) {  // a bool that is neither 0 nor 1 must not exist
      for (Index i = 0; i < n; ++i) staged[i] = from[begin + i] != std::byte{0};
    } else {
      std::memcpy(staged, from + begin * static_cast<Index>(sizeof(S)), static_cast<std::size_t>(n) * sizeof(S));
    }
    Index i = 0;
    if constexpr (simd::supported<T> && simd::supported<S> && std::is_same_v<accumulator_t<T>, float> &&
                  std::is_same_v<accumulator_t<S>, float>) {
      for (; i + simd::width<float> <= n; i += simd::width<float>) simd::store(to + begin + i, simd::load(staged + i));
    }
    for (; i < n; ++i) to[begin + i] = convert_one<T>(staged[i]);
  }
}

}  // namespace detail

/// Reads `to.size()` stored elements into a scalar of the library, each rounded at most once, to nearest even.
///
/// `from` may have any alignment. Floats from floats and integers; integers (`Token`, `Index`, …) from integers and booleans, where
/// a value out of range throws `value_error` with the value, and so do floats.
template <class T>
void convert(DType dtype, std::byte const* from, std::span<T> to, int threads = 1) {
  static_assert(!std::is_same_v<T, bool>, "read booleans as integers");
  visit(dtype, [&]<class S>(S) {
    Index const count = static_cast<Index>(to.size());
    if constexpr (std::integral<T> && !std::integral<S>) {
      throw value_error(concat("elements of ", to_string(dtype), " are not integers"));
    } else {
      constexpr Index grain = Index{1} << 20;
      parallel_ranges(threads, count, grain, [&](Index begin, Index end) {
        std::byte const* const source = from + begin * static_cast<Index>(sizeof(S));
        if constexpr (std::is_same_v<T, S> && !std::is_same_v<S, bool>)
          std::memcpy(to.data() + begin, source, static_cast<std::size_t>(end - begin) * sizeof(S));
        else
          detail::convert_run<T, S>(source, to.data() + begin, end - begin);
      });
    }
  });
}

}  // namespace blackmamba::io
