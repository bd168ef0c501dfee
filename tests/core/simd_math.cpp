#include <blackmamba/core/simd_math.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <initializer_list>
#include <limits>

using namespace blackmamba;

namespace {

/// Error of `got` in units of the last place that the exact value has in A (of the smallest subnormal near zero).
template <class A>
double error_in_ulp(A got, long double exact) {
  if (std::isnan(exact)) return std::isnan(got) ? 0 : HUGE_VAL;
  A const rounded = static_cast<A>(exact);
  if (got == rounded) return 0;
  if (!std::isfinite(got) || !std::isfinite(rounded)) return HUGE_VAL;
  int exponent;
  std::frexp(rounded, &exponent);
  int const lowest = std::numeric_limits<A>::min_exponent;
  long double const ulp = std::ldexp(1.0L, (exponent > lowest ? exponent : lowest) - std::numeric_limits<A>::digits);
  return static_cast<double>(std::fabs(got - exact) / ulp);
}

struct Worst {
  double ulp = 0;
  double at = 0;
};

template <class A, class F, class Exact>
void look(Worst& worst, A x, F f, Exact exact) {
  // The lane must not matter, so the value sits in one of them and its neighbours are something else.
  int const lane = static_cast<int>(__builtin_bit_cast(std::conditional_t<sizeof(A) == 4, std::uint32_t, std::uint64_t>, x) %
                                    static_cast<unsigned>(simd::width<A>));
  simd::pack<A> in = simd::broadcast(A(0.75));
  in[lane] = x;
  double const ulp = error_in_ulp<A>(f(in)[lane], exact(static_cast<long double>(x)));
  if (!(ulp <= worst.ulp)) worst = {ulp, static_cast<double>(x)};
}

/// Every 4099th float and as many doubles, over all bit patterns, and a fine grid where the functions bend.
template <class A, class F, class Exact>
Worst worst_error(F f, Exact exact) {
  Worst worst;
  if constexpr (std::is_same_v<A, float>)
    for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 4099)
      look(worst, __builtin_bit_cast(float, static_cast<std::uint32_t>(bits)), f, exact);
  else
    for (std::uint64_t i = 0; i < 500'000; ++i) look(worst, __builtin_bit_cast(double, i * 0x9e3779b97f4a7c15ull), f, exact);
  double const reach = std::is_same_v<A, float> ? 110 : 760;
  for (int i = -200'000; i <= 200'000; ++i) {
    look(worst, static_cast<A>(i * (reach / 200'000)), f, exact);
    look(worst, static_cast<A>(i * (8.0 / 200'000)), f, exact);
  }
  A const inf = std::numeric_limits<A>::infinity(), tiny = std::numeric_limits<A>::denorm_min(),
          most = std::numeric_limits<A>::max();
  for (A x : {A(0), A(-0.0), A(1), A(-1), inf, -inf, tiny, -tiny, most, -most, std::numeric_limits<A>::quiet_NaN(),
              std::numeric_limits<A>::min(), std::nextafter(A(-1), A(0)), std::nextafter(A(-1), A(-2))})
    look(worst, x, f, exact);
  return worst;
}

#define CHECK_ULP(limit, ...)                          \
  do {                                                 \
    Worst const worst_ = __VA_ARGS__;                  \
    INFO("worst ", worst_.ulp, " ulp at ", worst_.at); \
    CHECK(worst_.ulp <= limit);                        \
  } while (false)

long double sigmoid_exact(long double x) { return 1 / (1 + std::exp(-x)); }
long double softplus_exact(long double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

}  // namespace

TEST_CASE_TEMPLATE("simd_math: exp, log1p and softplus are within 2 ulp over the whole range", A, float, double) {
  using P = simd::pack<A>;
  CHECK_ULP(2, worst_error<A>([](P x) { return simd::exp(x); }, [](long double x) { return std::exp(x); }));
  CHECK_ULP(2, worst_error<A>([](P x) { return simd::log1p(x); }, [](long double x) { return std::log1p(x); }));
  CHECK_ULP(2, worst_error<A>([](P x) { return simd::softplus(x); }, softplus_exact));
}

TEST_CASE_TEMPLATE("simd_math: expm1, sigmoid, tanh and erf are within 3 ulp over the whole range", A, float, double) {
  using P = simd::pack<A>;
  CHECK_ULP(3, worst_error<A>([](P x) { return simd::expm1(x); }, [](long double x) { return std::expm1(x); }));
  CHECK_ULP(3, worst_error<A>([](P x) { return simd::sigmoid(x); }, sigmoid_exact));
  CHECK_ULP(3, worst_error<A>([](P x) { return simd::tanh(x); }, [](long double x) { return std::tanh(x); }));
  CHECK_ULP(3, worst_error<A>([](P x) { return simd::erf(x); }, [](long double x) { return std::erf(x); }));
}

TEST_CASE_TEMPLATE(
    "simd_math: the flushed exponentials are exact where the result is normal, and may be 0 near and under the smallest", A, float,
    double) {
  using P = simd::pack<A>;
  constexpr A threshold = 4 * std::numeric_limits<A>::min();
  auto const without_small = [](long double y) { return y < threshold ? 0 : y; };
  auto const check = [&](auto flushed, auto exact) {
    CHECK_ULP(2, worst_error<A>(
                     [&](P x) {
                       P y = flushed(x);
                       for (int i = 0; i < simd::width<A>; ++i)
                         if (y[i] < threshold) y[i] = 0;
                       return y;
                     },
                     [&](long double x) { return without_small(exact(x)); }));
    CHECK(flushed(simd::broadcast(-std::numeric_limits<A>::infinity()))[0] == A(0));
    CHECK(flushed(simd::broadcast(A(-1100)))[0] == A(0));
    CHECK(flushed(simd::broadcast(A(0)))[0] == A(1));
  };
  check([](P x) { return simd::exp_flushed(x); }, [](long double x) { return std::exp(x); });
  check([](P x) { return simd::exp2_flushed(x); }, [](long double x) { return std::exp2(x); });
}

TEST_CASE_TEMPLATE("simd_math: silu is within 4 ulp where its sigmoid is normal, and tiny below", A, float, double) {
  using P = simd::pack<A>;
  A const lowest = std::is_same_v<A, float> ? A(-87) : A(-708);
  auto const normal = [lowest](P x) { return simd::select(x < lowest, P{}, simd::silu(x)); };
  CHECK_ULP(4, worst_error<A>(normal, [lowest](long double x) { return x < lowest ? 0 : x * sigmoid_exact(x); }));
  for (A x = lowest; x > 2 * lowest; x -= 1)
    CHECK(std::abs(simd::silu(simd::broadcast(x))[0]) <= -2 * x * std::numeric_limits<A>::min());
}

TEST_CASE_TEMPLATE("simd_math: odd functions keep the sign of zero", A, float, double) {
  auto const minus_zero = simd::broadcast(A(0)) * A(-1);
  for (A y : {simd::tanh(minus_zero)[0], simd::erf(minus_zero)[0], simd::log1p(minus_zero)[0], simd::expm1(minus_zero)[0]}) {
    CHECK(y == A(0));
    CHECK(std::signbit(y));
  }
}
