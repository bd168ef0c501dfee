#pragma once
/// \file
/// Elementary functions on packs, for every input: overflow, underflow, subnormals and NaN behave as in the C library.
///
///   function                          largest error, in units in the last place
///   exp, log1p, softplus              2
///   expm1, sigmoid, tanh, erf         3
///   silu                              4, where sigmoid(x) is a normal number
///   exp_flushed, exp2_flushed         2, where the result is a normal number; results under 4 · the smallest one may be 0
///
/// The polynomials interpolate at Chebyshev nodes, computed with 60 digits; they hold with and without fused multiply-add.

#include <cstdint>
#include <limits>

#include <blackmamba/core/simd.hpp>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace blackmamba::simd {

namespace elementary {

template <class A>
struct bits_of;
template <>
struct bits_of<float> {
  using scalar = std::uint32_t;
  using type = std::uint32_t __attribute__((vector_size(32)));
  static constexpr int fraction = 23;
};
template <>
struct bits_of<double> {
  using scalar = std::uint64_t;
  using type = std::uint64_t __attribute__((vector_size(32)));
  static constexpr int fraction = 52;
};
template <class A>
using bit_pack = typename bits_of<A>::type;
template <class A>
using bit_scalar = typename bits_of<A>::scalar;

template <class A>
inline bit_pack<A> to_bits(pack<A> x) {
  return __builtin_bit_cast(bit_pack<A>, x);
}
template <class A>
inline pack<A> from_bits(bit_pack<A> x) {
  return __builtin_bit_cast(pack<A>, x);
}

/// c0 + c1 x + c2 x² + …
template <class V, class A>
inline V polynomial(V, A c0) {
  return V{} + c0;
}
template <class V, class A, class... Rest>
inline V polynomial(V x, A c0, Rest... rest) {
  return multiply_add(polynomial(x, rest...), x, V{} + c0);
}

template <class A>
inline pack<A> absolute(pack<A> x) {
  return from_bits<A>(to_bits<A>(x) & (~bit_scalar<A>{0} >> 1));
}
/// |x| with the sign of `sign`.
template <class A>
inline pack<A> with_sign(pack<A> x, pack<A> sign) {
  constexpr auto magnitude = ~bit_scalar<A>{0} >> 1;
  return from_bits<A>((to_bits<A>(x) & magnitude) | (to_bits<A>(sign) & ~magnitude));
}
/// NaN passes through, which compilers only turn into one instruction each way when told to.
template <class A>
inline pack<A> clamp(pack<A> x, A low, A high) {
#if defined(__AVX__)
  if constexpr (std::is_same_v<A, float>)
    return __builtin_bit_cast(
        pack<A>, _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), __builtin_bit_cast(__m256, x))));
  else
    return __builtin_bit_cast(
        pack<A>, _mm256_min_pd(_mm256_set1_pd(high), _mm256_max_pd(_mm256_set1_pd(low), __builtin_bit_cast(__m256d, x))));
#else
  x = select(x < low, broadcast(low), x);
  return select(x > high, broadcast(high), x);
#endif
}

/// ln 2 in two parts. The upper one is cut so short that any exponent times it is exact.
template <class A>
inline constexpr A ln2_upper = 0x1.62e42fefap-1;
template <>
inline constexpr float ln2_upper<float> = 0x1.62e4p-1f;
template <class A>
inline constexpr A ln2_lower = 0x1.cf79abc9e3b3ap-40;
template <>
inline constexpr float ln2_lower<float> = 0x1.7f7d1cp-20f;

/// x = n ln 2 + r with |r| ≤ ln(2)/2. The low bits of `shifted` are n + bias.
template <class A>
struct Reduced {
  pack<A> r, n, shifted;
};
template <class A, int bias>
inline Reduced<A> reduce(pack<A> x) {
  constexpr bool single = std::is_same_v<A, float>;
  // Adding 1.5 · 2^(fraction bits) rounds to an integer.
  constexpr A shift = (single ? A(0x1.8p23) : A(0x1.8p52)) + A(bias);
  Reduced<A> out;
  out.shifted = x * A(0x1.71547652b82fep+0) + shift;
  out.n = out.shifted - shift;
  pack<A> const upper = x - out.n * ln2_upper<A>;
  out.r = upper - out.n * ln2_lower<A>;
  return out;
}

/// (e^r - 1 - r) / r² for |r| ≤ ln(2)/2, preceded by `leading` lower coefficients.
template <class A, class... Leading>
inline pack<A> exp_polynomial(pack<A> r, Leading... leading) {
  if constexpr (std::is_same_v<A, float>)
    return polynomial(r, leading..., 0x1p-1f, 0x1.5554dcp-3f, 0x1.55551ap-5f, 0x1.120b7ep-7f, 0x1.6d1118p-10f);
  else
    return polynomial(r, leading..., 0x1p-1, 0x1.5555555555556p-3, 0x1.5555555553d5dp-5, 0x1.11111111109b1p-7,
                      0x1.6c16c1788e279p-10, 0x1.a01a01a7c588ap-13, 0x1.a019b90435244p-16, 0x1.71de0da8e0958p-19,
                      0x1.289190088364dp-22, 0x1.af38b6cc9f96ap-26);
}

template <class A>
inline pack<A> exp(pack<A> x) {
  constexpr bool single = std::is_same_v<A, float>;
  constexpr int fraction = bits_of<A>::fraction;
  // 2^n in two factors, since n reaches from the smallest subnormal to one past the largest number.
  auto const e = reduce < A, single ? 254 : 2046 > (clamp(x, single ? A(-104) : A(-746), single ? A(89) : A(710)));
  auto const biased = to_bits<A>(e.shifted), half = biased >> 1;
  return (exp_polynomial<A>(e.r, A(1), A(1)) * from_bits<A>(half << fraction)) * from_bits<A>((biased - half) << fraction);
}

template <class A>
inline pack<A> exp_flushed(pack<A> x) {
  constexpr bool single = std::is_same_v<A, float>;
  // 2e^r · 2^(n-1): one factor serves up to the largest number, and is 0 for the smallest n.
  auto const e = reduce < A, single ? 126 : 1022 > (clamp(x, single ? A(-87.3) : A(-708.5), single ? A(89) : A(710)));
  pack<A> const p = exp_polynomial<A>(e.r, A(1), A(1));
  return (p + p) * from_bits<A>(to_bits<A>(e.shifted) << bits_of<A>::fraction);
}

template <class A>
inline pack<A> exp2_flushed(pack<A> x) {
  constexpr bool single = std::is_same_v<A, float>;
  constexpr A shift = single ? A(0x1.8p23 + 126) : A(0x1.8p52 + 1022);
  x = clamp(x, single ? A(-126) : A(-1022), single ? A(128.4) : A(1024.4));
  pack<A> const shifted = x + shift, r = x - (shifted - shift);
  pack<A> twice;
  if constexpr (single)
    twice = polynomial(r, 0x1p+1f, 0x1.62e43p+0f, 0x1.ebfbep-2f, 0x1.c6aeccp-4f, 0x1.3b2a1cp-6f, 0x1.5f48cp-9f, 0x1.444p-12f);
  else
    twice = polynomial(r, 0x1p+1, 0x1.62e42fefa39efp+0, 0x1.ebfbdff82c5aep-2, 0x1.c6b08d704a0c6p-4, 0x1.3b2ab6fb9f1a5p-6,
                       0x1.5d87fe78a3f9cp-9, 0x1.430913112c61bp-12, 0x1.ffcbfc6da6ed1p-16, 0x1.62bfc2c86d7p-19,
                       0x1.b524ebd13a55fp-23, 0x1.e6228acd1c6e5p-27, 0x1.e9ec1fcb69a7fp-31);
  return twice * from_bits<A>(to_bits<A>(shifted) << bits_of<A>::fraction);
}

template <class A>
inline pack<A> expm1(pack<A> x) {
  constexpr bool single = std::is_same_v<A, float>;
  auto const e = reduce < A, single ? 126 : 1022 > (clamp(x, single ? A(-20) : A(-40), single ? A(89) : A(710)));
  pack<A> const p = e.r + e.r * e.r * exp_polynomial<A>(e.r);
  pack<A> const scale = from_bits<A>(to_bits<A>(e.shifted) << bits_of<A>::fraction);  // 2^(n-1)
  pack<A> const y = scale * p + (scale - A(0.5));
  // Where n = 0 the sum above is p / 2, and halving a subnormal would round.
  return select(e.n == A(0), select(absolute<A>(x) < std::numeric_limits<A>::min(), x, p), y + y);
}

/// log1p by u = 1 + x = 2^k (1 + f), log(1 + f) = f - f²/2 + s (f²/2 + s² Q(s²)), s = f / (2 + f), and what 1 + x lost.
template <class A>
inline pack<A> log1p(pack<A> x) {
  constexpr bool single = std::is_same_v<A, float>;
  constexpr int fraction = bits_of<A>::fraction;
  using U = bit_scalar<A>;
  constexpr A root_half = A(0x1.6a09e667f3bcdp-1);
  constexpr A integers = single ? A(0x1p23) : A(0x1p52);  // the fraction of integers + i is i
  constexpr U bias = 64;

  pack<A> const u = x + A(1);
  auto const exponent = (to_bits<A>(u) - __builtin_bit_cast(U, root_half) + (bias << fraction)) >> fraction;
  pack<A> const k = from_bits<A>(exponent | __builtin_bit_cast(U, integers)) - (integers + A(bias));
  pack<A> const m = from_bits<A>(to_bits<A>(u) - ((exponent - bias) << fraction));
  auto const near_one = k == A(0);
  pack<A> const lost = select(x > A(1), A(1) - (u - x), x - (u - A(1))) / u;
  pack<A> const f = select(near_one, x, m - A(1));
  pack<A> const s = f / (f + A(2)), z = s * s, half_square = f * f * A(0.5);
  pack<A> q;
  if constexpr (single)
    q = polynomial(z, 0x1.55555cp-1f, 0x1.997c2ap-2f, 0x1.2ee73ep-2f);
  else
    q = polynomial(z, 0x1.5555555555558p-1, 0x1.99999999952b2p-2, 0x1.2492492df6947p-2, 0x1.c71c62debf86bp-3, 0x1.7462b69705382p-3,
                   0x1.39fe208c33457p-3, 0x1.2b5b5fb2eac92p-3);
  pack<A> const small = s * (half_square + z * q) + (k * ln2_lower<A> + select(near_one, pack<A>{}, lost));
  pack<A> y = (f - (half_square - small)) + k * ln2_upper<A>;
  // Infinity and numbers whose square vanishes are their own answer; -1 has none that is finite, and below it there is none.
  auto const own = (absolute<A>(x) < std::numeric_limits<A>::epsilon() / 4) | (x > std::numeric_limits<A>::max());
  y = select(own, x, y);
  pack<A> const outside =
      select(x == A(-1), broadcast(-std::numeric_limits<A>::infinity()), x - x + std::numeric_limits<A>::quiet_NaN());
  return select(x > A(-1), y, outside);
}

template <class A>
inline pack<A> sigmoid(pack<A> x) {
  pack<A> const e = exp<A>(-absolute<A>(x));
  return select(x < A(0), e, broadcast(A(1))) / (e + A(1));
}

template <class A>
inline pack<A> softplus(pack<A> x) {
  return select(x < A(0), pack<A>{}, x) + log1p<A>(exp<A>(-absolute<A>(x)));
}

template <class A>
inline pack<A> tanh(pack<A> x) {
  pack<A> const e = expm1<A>(absolute<A>(x) * A(-2));
  return with_sign<A>(e / (e + A(2)), x);
}

/// |x| ≤ 1: x + x R(x²). Above: 1 - e^(-x²) G(1 / (x + 2)), where G is the scaled complement.
template <class A>
inline pack<A> erf(pack<A> x) {
  pack<A> const square = x * x;
  pack<A> const magnitude = clamp(absolute<A>(x), A(1), std::is_same_v<A, float> ? A(4) : A(6));
  pack<A> const t = A(1) / (magnitude + A(2));
  pack<A> inner, tail;
  if constexpr (std::is_same_v<A, float>) {
    inner = polynomial(square, 0x1.06eba8p-3f, -0x1.81273ep-2f, 0x1.ce2d1p-4f, -0x1.b7fabap-6f, 0x1.54127p-8f, -0x1.a45088p-11f,
                       0x1.4a569p-14f);
    tail = polynomial(t, 0x1.3d419ep-11f, 0x1.18339ap-1f, 0x1.52b2p+0f, 0x1.9fb9a8p-1f, 0x1.9d2dcep+2f, -0x1.d37a66p+0f,
                      -0x1.b75728p+1f);
  } else {
    inner = polynomial(square, 0x1.06eba8214db69p-3, -0x1.812746b0379e6p-2, 0x1.ce2f21a042b3p-4, -0x1.b82ce31284ep-6,
                       0x1.565bcd0dbaa38p-8, -0x1.c02db3dac435fp-11, 0x1.f9a321d5b8e1ep-14, -0x1.f4d1e3183f7aep-17,
                       0x1.b9df224ca4b97p-20, -0x1.5f1ecb6f0764cp-23, 0x1.f7b4bf3b13964p-27, -0x1.389d4f2641625p-30,
                       0x1.05ffd737fb32ep-34);
    tail = polynomial(t, 0x1.5ccce7983ea5ap-23, 0x1.20dbd3ad45fd5p-1, 0x1.20fa627a1aef8p+0, 0x1.f70cbc11fe46fp+0,
                      0x1.7b872be925988p+1, 0x1.1ce8cceee0799p+0, 0x1.8f0441e18093fp+3, -0x1.581816b53d9ap+6, 0x1.640682e54e569p+8,
                      -0x1.4637da827098p+10, 0x1.a837046bf615p+11, -0x1.677beeb9077d4p+12, 0x1.7fd3eb69b9152p+12,
                      -0x1.db4a380864d43p+11, 0x1.06de90fce20e3p+10);
  }
  pack<A> const outer = A(1) - exp<A>(-(magnitude * magnitude)) * tail;
  // NaN takes the first branch, which keeps it.
  return select(absolute<A>(x) > A(1), with_sign<A>(outer, x), x + x * inner);
}

}  // namespace elementary

inline pack<float> exp(pack<float> x) { return elementary::exp<float>(x); }
inline pack<double> exp(pack<double> x) { return elementary::exp<double>(x); }

/// e^x where results near and under the smallest normal number do not matter: a few instructions fewer, and never a subnormal.
inline pack<float> exp_flushed(pack<float> x) { return elementary::exp_flushed<float>(x); }
inline pack<double> exp_flushed(pack<double> x) { return elementary::exp_flushed<double>(x); }

/// 2^x, flushed likewise.
inline pack<float> exp2_flushed(pack<float> x) { return elementary::exp2_flushed<float>(x); }
inline pack<double> exp2_flushed(pack<double> x) { return elementary::exp2_flushed<double>(x); }

/// e^x - 1
inline pack<float> expm1(pack<float> x) { return elementary::expm1<float>(x); }
inline pack<double> expm1(pack<double> x) { return elementary::expm1<double>(x); }

/// log(1 + x)
inline pack<float> log1p(pack<float> x) { return elementary::log1p<float>(x); }
inline pack<double> log1p(pack<double> x) { return elementary::log1p<double>(x); }

/// 1 / (1 + e^-x)
inline pack<float> sigmoid(pack<float> x) { return elementary::sigmoid<float>(x); }
inline pack<double> sigmoid(pack<double> x) { return elementary::sigmoid<double>(x); }

/// x · sigmoid(x)
inline pack<float> silu(pack<float> x) { return x * elementary::sigmoid<float>(x); }
inline pack<double> silu(pack<double> x) { return x * elementary::sigmoid<double>(x); }

/// log(1 + e^x)
inline pack<float> softplus(pack<float> x) { return elementary::softplus<float>(x); }
inline pack<double> softplus(pack<double> x) { return elementary::softplus<double>(x); }

inline pack<float> tanh(pack<float> x) { return elementary::tanh<float>(x); }
inline pack<double> tanh(pack<double> x) { return elementary::tanh<double>(x); }

inline pack<float> erf(pack<float> x) { return elementary::erf<float>(x); }
inline pack<double> erf(pack<double> x) { return elementary::erf<double>(x); }

}  // namespace blackmamba::simd
