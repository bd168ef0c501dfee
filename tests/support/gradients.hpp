#pragma once
// Gradients by dual numbers: what the hand-written backward passes are judged by.

#include <tuple>
#include <utility>

#include "support/op_test.hpp"

namespace test {

/// An input, and what a backward pass says is the gradient of the loss with respect to it.
template <int Rank>
struct Gradient {
  char const* name;
  Tensor<double, Rank> const& at;
  Tensor<double, Rank> const& gradient;
};
template <int Rank>
Gradient(char const*, Tensor<double, Rank> const&, Tensor<double, Rank> const&) -> Gradient<Rank>;

/// The tensor in dual numbers that do not move.
template <int Rank>
Tensor<Dual<double>, Rank> at_rest(Tensor<double, Rank> const& x) {
  return converted<Dual<double>>(x);
}

/// sum_i weight_i x_i: a loss whose gradient with respect to x is the weight.
template <int Rank>
Dual<double> weighted_sum(Tensor<double, Rank> const& weight, Tensor<Dual<double>, Rank> const& x) {
  Dual<double> sum{0};
  for (Index i = 0; i < x.size(); ++i) sum += Dual<double>{weight.data()[i]} * x.data()[i];
  return sum;
}

/// Compares each gradient with that of `loss`, a function of tensors of dual numbers in the order of the inputs: every single
/// coordinate, and random directions in all inputs at once, to 1e-12 of the largest.
template <class Loss, int... Ranks>
void check_gradients(Loss&& loss, Gradient<Ranks> const&... inputs) {
  constexpr double relative = 1e-12;
  std::tuple<Tensor<Dual<double>, Ranks>...> duals{at_rest(inputs.at)...};
  auto const tangent = [&] { return std::apply([&](auto const&... dual) { return loss(dual...); }, duals).tangent; };
  auto const coordinates = [&](auto const& input, auto& dual) {
    INFO("d_", input.name);
    auto expected = input.gradient.clone();
    for (Index i = 0; i < dual.size(); ++i) {
      dual.data()[i].tangent = 1;
      expected.data()[i] = tangent();
      dual.data()[i].tangent = 0;
    }
    CHECK_CLOSE(verify::compare_scaled(input.gradient.view(), expected.view(), relative));
  };
  std::apply([&](auto&... dual) { (coordinates(inputs, dual), ...); }, duals);

  Tensor<double, 1> got{Shape<1>{8}}, expected{Shape<1>{8}};
  for (Index direction = 0; direction < got.size(); ++direction) {
    std::uint64_t stream = 100;
    auto const point = [&](auto const& input, auto& dual) {
      Random const random{++stream, static_cast<std::uint64_t>(direction)};
      for (Index i = 0; i < dual.size(); ++i) {
        dual.data()[i].tangent = random.normal(static_cast<std::uint64_t>(i));
        got(direction) += input.gradient.data()[i] * dual.data()[i].tangent;
      }
    };
    std::apply([&](auto&... dual) { (point(inputs, dual), ...); }, duals);
    expected(direction) = tangent();
  }
  CHECK_CLOSE(verify::compare_scaled(got.view(), expected.view(), relative));
}

}  // namespace test
