#include <blackmamba/core/simd.hpp>

#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class T>
constexpr int W = simd::width<accumulator_t<T>>;

/// The bits of a stored value, so that NaN and the sign of zero count.
template <class T>
auto bits(T x) {
  if constexpr (sizeof(T) == 2)
    return x.bits;
  else
    return __builtin_bit_cast(std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>, x);
}

}  // namespace

TEST_CASE_TEMPLATE("simd: a load widens each element and a store rounds it as the scalar conversions do", T, float, double, half,
                   bf16) {
  using A = accumulator_t<T>;
  auto const x = test::random_tensor<T>(Shape<1>{W<T> + 3}, 1);
  for (Index at = 0; at <= 3; ++at) {  // unaligned too
    auto const pack = simd::load(x.data() + at);
    for (int i = 0; i < W<T>; ++i) CHECK(pack[i] == widen(x(at + i)));
    auto const scaled = pack * simd::broadcast(A(1) / A(3));
    Tensor<T, 1> y{Shape<1>{W<T> + 5}};
    simd::store(y.data() + at + 1, scaled);
    for (int i = 0; i < W<T>; ++i) CHECK(bits(y(at + 1 + i)) == bits(static_cast<T>(static_cast<A>(scaled[i]))));
    CHECK(bits(y(at)) == bits(T(0)));
    CHECK(bits(y(at + 1 + W<T>)) == bits(T(0)));
  }
}

TEST_CASE_TEMPLATE("simd: all 65536 values load and store like the scalar conversions, NaN and infinity too", T, half, bf16) {
  int wrong = 0;
  for (std::uint32_t first = 0; first < 65536; first += 8) {
    T x[8], back[8];
    for (std::uint32_t i = 0; i < 8; ++i) x[i] = T::from_bits(static_cast<std::uint16_t>(first + i));
    auto const pack = simd::load(x);
    simd::store(back, pack);
    for (int i = 0; i < 8; ++i) {
      float const lane = pack[i];
      // A hardware load may make a signalling NaN quiet; the value after the store is the same either way.
      bool const nan = std::isnan(widen(x[i]));
      if (nan ? !std::isnan(lane) : bits(lane) != bits(widen(x[i]))) ++wrong;
      if (back[i].bits != T{widen(x[i])}.bits) ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("simd: random bit patterns of float are stored as the scalar conversion rounds them", T, half, bf16) {
  Random const random{3};
  int wrong = 0;
  for (std::uint64_t round = 0; round < 50000; ++round) {
    simd::pack<float> x;
    for (int i = 0; i < 8; ++i) {
      auto const draw = random.bits(8 * round + static_cast<std::uint64_t>(i));
      // Half of them where half precision lives; the others anywhere.
      x[i] = i % 2 ? __builtin_bit_cast(float, static_cast<std::uint32_t>(draw))
                   : static_cast<float>(std::ldexp(random.normal(draw), static_cast<int>(draw % 48) - 30));
    }
    T stored[8];
    simd::store(stored, x);
    for (int i = 0; i < 8; ++i)
      if (stored[i].bits != T{static_cast<float>(x[i])}.bits) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("simd: parts read and write nothing past their count", T, float, double, half, bf16) {
  using A = accumulator_t<T>;
  auto const x = test::random_tensor<T>(Shape<1>{W<T>}, 5);
  for (Index count = 0; count < W<T>; ++count) {
    std::vector<T> exact(x.data(), x.data() + count);  // the sanitizers see a read past its end
    auto const pack = simd::load_part(exact.data(), count);
    for (Index i = 0; i < W<T>; ++i) CHECK(pack[i] == (i < count ? widen(x(i)) : A(0)));
    std::vector<T> out(static_cast<std::size_t>(W<T>), T(7));
    simd::store_part(out.data(), pack, count);
    for (Index i = 0; i < W<T>; ++i) CHECK(bits(out[static_cast<std::size_t>(i)]) == bits(i < count ? x(i) : T(7)));
  }
}

TEST_CASE_TEMPLATE("simd: the sum takes every lane once", A, float, double) {
  simd::pack<A> x{};
  for (int i = 0; i < simd::width<A>; ++i) x[i] = static_cast<A>(1 << (2 * i));
  CHECK(simd::sum(x) == A((1 << (2 * simd::width<A>)) - 1) / A(3));
}

TEST_CASE_TEMPLATE("simd: select takes each lane from the side that its condition names", A, float, double) {
  simd::pack<A> x{}, zero{};
  for (int i = 0; i < simd::width<A>; ++i) x[i] = static_cast<A>(i % 2 ? -i : i);
  auto const y = simd::select(x < zero, -x, x + A(100));
  for (int i = 0; i < simd::width<A>; ++i) CHECK(y[i] == (i % 2 ? A(i) : A(i + 100)));
}
