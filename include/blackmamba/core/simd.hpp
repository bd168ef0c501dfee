#pragma once
/// \file
/// Short vectors for the fast CPU paths, on the compilers' vector extension (GCC, Clang): 8 floats or 4 doubles, whatever the
/// machine has to hold them. Storage scalars widen on load and round to nearest even on store, so one kernel body serves all four.

#include <cstring>
#include <type_traits>

#include <blackmamba/core/scalar.hpp>

#if defined(__F16C__) || defined(__AVX2__) || defined(__FMA__)
#include <immintrin.h>
#endif

namespace blackmamba::simd {

template <class A>
struct pack_of;
template <>
struct pack_of<float> {
  using type = float __attribute__((vector_size(32)));
  using ints = int __attribute__((vector_size(32)));
};
template <>
struct pack_of<double> {
  using type = double __attribute__((vector_size(32)));
  using ints = long long __attribute__((vector_size(32)));
};

/// A vector of accumulators, and how many.
template <class A>
using pack = typename pack_of<A>::type;
template <class A>
using int_pack = typename pack_of<A>::ints;
template <class A>
inline constexpr int width = 32 / static_cast<int>(sizeof(A));

/// Scalars that the packs serve; others (dual numbers, long double) take the reference path.
template <class T>
inline constexpr bool supported =
    std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bf16> || std::is_same_v<T, half>;

template <class A>
inline pack<A> broadcast(A x) {
  return x - pack<A>{};  // which compilers see through, and which keeps -0
}

/// `width` consecutive elements, widened.
template <class T>
inline pack<accumulator_t<T>> load(T const* p) {
  if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX2__)
    // One instruction widens from memory; GCC 12 makes five of the portable form, which bounds a product that streams bf16.
    __m256i const wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)));
    return __builtin_bit_cast(pack<float>, _mm256_slli_epi32(wide, 16));
#else
    using u16x8 = std::uint16_t __attribute__((vector_size(16)));
    using u32x8 = std::uint32_t __attribute__((vector_size(32)));
    u16x8 raw;
    std::memcpy(&raw, p, sizeof raw);
    u32x8 const wide = __builtin_convertvector(raw, u32x8) << 16;
    return __builtin_bit_cast(pack<float>, wide);
#endif
  } else if constexpr (std::is_same_v<T, half>) {
#if defined(__F16C__)
    return __builtin_bit_cast(pack<float>, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p))));
#else
    pack<float> out;
    for (int i = 0; i < 8; ++i) out[i] = static_cast<float>(p[i]);
    return out;
#endif
  } else {
    pack<T> out;
    std::memcpy(&out, p, sizeof out);
    return out;
  }
}

/// Rounds and writes `width` consecutive elements.
template <class T>
inline void store(T* p, pack<accumulator_t<T>> x) {
  if constexpr (std::is_same_v<T, bf16>) {
    using u16x8 = std::uint16_t __attribute__((vector_size(16)));
    using u32x8 = std::uint32_t __attribute__((vector_size(32)));
    auto const f = __builtin_bit_cast(u32x8, x);
    u32x8 const rounded = (f + 0x7fffu + ((f >> 16) & 1u)) >> 16;
    u32x8 const quiet_nan = (f >> 16) | 0x40u;
    u32x8 const is_nan = __builtin_bit_cast(u32x8, (f & 0x7fffffffu) > 0x7f800000u);
    u16x8 const out = __builtin_convertvector((quiet_nan & is_nan) | (rounded & ~is_nan), u16x8);
    std::memcpy(p, &out, sizeof out);
  } else if constexpr (std::is_same_v<T, half>) {
#if defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(__builtin_bit_cast(__m256, x), _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < 8; ++i) p[i] = static_cast<half>(static_cast<float>(x[i]));
#endif
  } else {
    std::memcpy(p, &x, sizeof x);
  }
}

/// The first `count` < width elements; the rest of the pack is zero. Touches no memory past them.
template <class T>
inline pack<accumulator_t<T>> load_part(T const* p, Index count) {
  pack<accumulator_t<T>> out{};
  for (Index i = 0; i < count; ++i) out[i] = widen(p[i]);
  return out;
}
template <class T>
inline void store_part(T* p, pack<accumulator_t<T>> x, Index count) {
  for (Index i = 0; i < count; ++i) p[i] = static_cast<T>(static_cast<accumulator_t<T>>(x[i]));
}

/// a·b + c, by one instruction wherever the machine has it. Written out as an expression it is the compiler's choice, loop by loop,
/// and with it the last bit of the result.
inline pack<float> multiply_add(pack<float> a, pack<float> b, pack<float> c) {
#if defined(__FMA__)
  return __builtin_bit_cast(
      pack<float>, _mm256_fmadd_ps(__builtin_bit_cast(__m256, a), __builtin_bit_cast(__m256, b), __builtin_bit_cast(__m256, c)));
#else
  return a * b + c;
#endif
}
inline pack<double> multiply_add(pack<double> a, pack<double> b, pack<double> c) {
#if defined(__FMA__)
  return __builtin_bit_cast(pack<double>, _mm256_fmadd_pd(__builtin_bit_cast(__m256d, a), __builtin_bit_cast(__m256d, b),
                                                          __builtin_bit_cast(__m256d, c)));
#else
  return a * b + c;
#endif
}

/// The sum of the elements, in a fixed tree.
inline float sum(pack<float> x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
inline double sum(pack<double> x) { return (x[0] + x[2]) + (x[1] + x[3]); }

/// Lane by lane: `condition ? a : b`, where the condition is what comparing two packs gives.
template <class V, class M>
inline V select(M condition, V a, V b) {
  return condition ? a : b;
}

}  // namespace blackmamba::simd
