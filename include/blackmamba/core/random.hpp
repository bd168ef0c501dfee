#pragma once
/// \file
/// Counter-based random numbers: the i-th number of a stream is a function of (seed, stream, i), so any thread can draw any of
/// them and order does not matter. The same bits on every platform: integers only, and floating-point through operations that
/// IEEE 754 rounds correctly (+, ×, ÷, √, fma), with every fma written out so that no compiler can choose one.
///
/// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10);
/// Wichura 1988, algorithm AS 241 (the normal quantile).

#include <cmath>
#include <cstdint>

#include <blackmamba/core/config.hpp>

namespace blackmamba {

/// Four 32-bit words from a 128-bit counter and a 64-bit key.
struct Philox {
  std::uint32_t word[4];

  BLACKMAMBA_HOST_DEVICE static constexpr Philox at(std::uint64_t key, std::uint64_t stream, std::uint64_t counter) {
    std::uint32_t c[4]{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                       static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
    std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      std::uint64_t const p0 = std::uint64_t{0xD2511F53u} * c[0];
      std::uint64_t const p1 = std::uint64_t{0xCD9E8D57u} * c[2];
      std::uint32_t const next[4]{static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
                                  static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
      for (int i = 0; i < 4; ++i) c[i] = next[i];
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {{c[0], c[1], c[2], c[3]}};
  }
};

namespace detail {

/// c[0] + x (c[1] + x (c[2] + …)), each step one fma.
template <int N>
double polynomial(double const (&c)[N], double x) {
  double sum = c[N - 1];
  for (int i = N - 2; i >= 0; --i) sum = std::fma(sum, x, c[i]);
  return sum;
}

/// Natural logarithm of a positive normal number, within 3 units in the last place, the same bits everywhere:
/// x = m 2^e with m in [√½, √2), log m = 2 artanh((m-1)/(m+1)) by its series.
inline double portable_log(double x) {
  int e;
  double m = std::frexp(x, &e);
  if (m < 0.70710678118654752440) {
    m *= 2;
    --e;
  }
  double const s = (m - 1) / (m + 1), s2 = s * s;
  static constexpr double c[]{1.0, 1.0 / 3, 1.0 / 5, 1.0 / 7, 1.0 / 9, 1.0 / 11, 1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21};
  double const twice_s = s + s;
  return std::fma(static_cast<double>(e), 0.693147180559945309417, twice_s * polynomial(c, s2));
}

/// x with P(Z < x) = p for a standard normal Z, 0 < p < 1: relative error about 1e-16 (AS 241, PPND16).
inline double normal_quantile(double p) {
  double const q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    static constexpr double a[]{3.3871328727963666080,   1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                                4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3};
    static constexpr double b[]{1.0,
                                4.2313330701600911252e1,
                                6.8718700749205790830e2,
                                5.3941960214247511077e3,
                                2.1213794301586595867e4,
                                3.9307895800092710610e4,
                                2.8729085735721942674e4,
                                5.2264952788528545610e3};
    double const r = std::fma(-q, q, 0.180625);
    return q * (polynomial(a, r) / polynomial(b, r));
  }
  double const tail = q < 0 ? p : 1 - p;
  double r = std::sqrt(-portable_log(tail));
  double x;
  if (r <= 5) {
    static constexpr double c[]{1.42343711074968357734,    4.63033784615654529590,   5.76949722146069140550,
                                3.64784832476320460504,    1.27045825245236838258,   2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static constexpr double d[]{1.0,
                                2.05319162663775882187,
                                1.67638483018380384940,
                                6.89767334985100004550e-1,
                                1.48103976427480074590e-1,
                                1.51986665636164571966e-2,
                                5.47593808499534494600e-4,
                                1.05075007164441684324e-9};
    r -= 1.6;
    x = polynomial(c, r) / polynomial(d, r);
  } else {
    static constexpr double e[]{6.65790464350110377720,    5.46378491116411436990,    1.78482653991729133580,
                                2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static constexpr double f[]{1.0,
                                5.99832206555887937690e-1,
                                1.36929880922735805310e-1,
                                1.48753612908506148525e-2,
                                7.86869131145613259100e-4,
                                1.84631831751005468180e-5,
                                1.42151175831644588870e-7,
                                2.04426310338993978564e-15};
    r -= 5;
    x = polynomial(e, r) / polynomial(f, r);
  }
  return q < 0 ? -x : x;
}

}  // namespace detail

/// The stream `stream` of the seed `seed`: number i is `uniform(i)` or `normal(i)`, in any order, from any thread.
class Random {
 public:
  explicit constexpr Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_{seed}, stream_{stream} {}

  /// 64 random bits.
  BLACKMAMBA_HOST_DEVICE constexpr std::uint64_t bits(std::uint64_t i) const {
    auto const block = Philox::at(seed_, stream_, i >> 1);
    int const at = static_cast<int>(i & 1) * 2;
    return static_cast<std::uint64_t>(block.word[at]) | static_cast<std::uint64_t>(block.word[at + 1]) << 32;
  }

  /// Uniform on (0, 1), an odd multiple of 2^-53: never 0, never 1.
  BLACKMAMBA_HOST_DEVICE constexpr double uniform(std::uint64_t i) const {
    return (static_cast<double>(bits(i) >> 12) + 0.5) * 0x1p-52;
  }

  /// Uniform on (low, high).
  double uniform(std::uint64_t i, double low, double high) const { return std::fma(high - low, uniform(i), low); }

  /// Standard normal.
  double normal(std::uint64_t i) const { return detail::normal_quantile(uniform(i)); }

  /// Uniform integer in [0, n), n > 0. The bias is below n / 2^64.
  BLACKMAMBA_HOST_DEVICE constexpr Index below(std::uint64_t i, Index n) const {
    return static_cast<Index>((static_cast<unsigned __int128>(bits(i)) * static_cast<unsigned __int128>(n)) >> 64);
  }

  /// An independent stream of the same seed.
  constexpr Random split(std::uint64_t stream) const {
    auto const mixed = Philox::at(seed_ ^ 0x9E3779B97F4A7C15u, stream_, stream);
    return Random{seed_, static_cast<std::uint64_t>(mixed.word[0]) | static_cast<std::uint64_t>(mixed.word[1]) << 32};
  }

 private:
  std::uint64_t seed_, stream_;
};

}  // namespace blackmamba
