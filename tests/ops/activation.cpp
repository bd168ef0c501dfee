#include <blackmamba/ops/activation/activation.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

constexpr Activation kinds[]{Activation::identity, Activation::relu,     Activation::relu_squared,
                             Activation::silu,     Activation::gelu_erf, Activation::gelu_tanh};

template <class T, class Ctx>
void check(Ctx const& ctx, Activation kind, Index rows, Index D) {
  INFO(concat(Ctx::name, ", ", to_string(kind), ", rows ", rows, ", D ", D));
  auto const x = test::random_tensor<T>(Shape{rows, D}, 1, 3), value = test::random_tensor<T>(Shape{rows, D}, 2);
  auto const x_exact = converted<double>(x), value_exact = converted<double>(value);
  Tensor<T, 2> y{Shape{rows, D}};
  Tensor<double, 2> y_exact{Shape{rows, D}};
  verify::Cost const cost{};

  activation(ctx, ActivationArgs<T>{.kind = kind, .x = x, .y = y});
  activation(Reference{}, ActivationArgs<double>{.kind = kind, .x = x_exact, .y = y_exact});
  CHECK_CLOSE(verify::compare(y.view(), y_exact.view(), cost));

  gated_unit(ctx, GatedUnitArgs<T>{.kind = kind, .gate = x, .value = value, .y = y});
  gated_unit(Reference{}, GatedUnitArgs<double>{.kind = kind, .gate = x_exact, .value = value_exact, .y = y_exact});
  CHECK_CLOSE(verify::compare(y.view(), y_exact.view(), cost));
}

}  // namespace

TEST_CASE_TEMPLATE("activation: every kind, scalar and shape agrees with the double reference on every context", T, float, double,
                   half, bf16) {
  for (Activation kind : kinds)
    for (Index rows : {0, 1, 3})
      for (Index D : {0, 1, 3, 4, 5, 7, 8, 9, 127}) {
        check<T>(Reference{}, kind, rows, D);
        check<T>(Cpu{1}, kind, rows, D);
        check<T>(Cpu{2}, kind, rows, D);
      }
}

TEST_CASE_TEMPLATE("activation: one thread and two give the same bits over many pieces", T, float, double, half, bf16) {
  Shape const shape{Index{3}, Index{20011}};
  auto const gate = test::random_tensor<T>(shape, 1), value = test::random_tensor<T>(shape, 2);
  for (Activation kind : kinds) {
    Tensor<T, 2> one{shape}, two{shape};
    activation(Cpu{1}, ActivationArgs<T>{.kind = kind, .x = gate, .y = one});
    activation(Cpu{2}, ActivationArgs<T>{.kind = kind, .x = gate, .y = two});
    CHECK(std::memcmp(one.data(), two.data(), static_cast<std::size_t>(one.size()) * sizeof(T)) == 0);
    gated_unit(Cpu{1}, GatedUnitArgs<T>{.kind = kind, .gate = gate, .value = value, .y = one});
    gated_unit(Cpu{2}, GatedUnitArgs<T>{.kind = kind, .gate = gate, .value = value, .y = two});
    CHECK(std::memcmp(one.data(), two.data(), static_cast<std::size_t>(one.size()) * sizeof(T)) == 0);
  }
}

TEST_CASE("activation: a strided last dimension takes the reference path and gives the same values") {
  auto const x = test::random_tensor<float>(Shape{Index{9}, Index{4}}, 1);
  Tensor<float, 2> y{Shape{Index{4}, Index{9}}}, y_reference{Shape{Index{4}, Index{9}}};
  auto const columns = x.view().transposed(0, 1);
  activation(Cpu{2}, ActivationArgs<float>{.kind = Activation::silu, .x = columns, .y = y});
  activation(Reference{}, ActivationArgs<float>{.kind = Activation::silu, .x = columns, .y = y_reference});
  for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == y_reference.data()[i]);
}

TEST_CASE_TEMPLATE("gated_unit: the halves of one matrix give what two matrices give, and the output may be either input", Ctx,
                   Reference, Cpu) {
  Index const rows = 5, D = 19;
  auto both = test::random_tensor<float>(Shape{rows, 2 * D}, 1);
  Tensor<float, 2> gate{Shape{rows, D}}, value{Shape{rows, D}}, y{Shape{rows, D}};
  for (Index r = 0; r < rows; ++r)
    for (Index i = 0; i < D; ++i) gate(r, i) = both(r, i), value(r, i) = both(r, D + i);
  Ctx const ctx;
  Activation const kind = Activation::gelu_tanh;
  gated_unit(ctx, GatedUnitArgs<float>{.kind = kind, .gate = gate, .value = value, .y = y});

  auto const left = both.view().slice(1, 0, D), right = both.view().slice(1, D, D);
  gated_unit(ctx, GatedUnitArgs<float>{.kind = kind, .gate = left, .value = right, .y = right});
  for (Index r = 0; r < rows; ++r)
    for (Index i = 0; i < D; ++i) {
      CHECK(right(r, i) == y(r, i));
      CHECK(left(r, i) == gate(r, i));
    }
  gated_unit(ctx, GatedUnitArgs<float>{.kind = kind, .gate = gate, .value = value, .y = gate});
  for (Index i = 0; i < y.size(); ++i) CHECK(gate.data()[i] == y.data()[i]);
  activation(ctx, ActivationArgs<float>{.kind = kind, .x = value, .y = y});
  activation(ctx, ActivationArgs<float>{.kind = kind, .x = value, .y = value});
  for (Index i = 0; i < y.size(); ++i) CHECK(value.data()[i] == y.data()[i]);
}

TEST_CASE_TEMPLATE("activation: far out every kind is 0 on the left and the identity or its square on the right", T, float, double,
                   half, bf16) {
  Tensor<T, 2> x{Shape{Index{2}, Index{11}}}, y{Shape{Index{2}, Index{11}}};
  double const far = 200;
  for (Index i = 0; i < 11; ++i) x(0, i) = static_cast<T>(-far), x(1, i) = static_cast<T>(far);
  auto const check_on = [&](auto const& ctx) {
    for (Activation kind : kinds) {
      if (kind == Activation::identity) continue;
      INFO(to_string(kind));
      activation(ctx, ActivationArgs<T>{.kind = kind, .x = x, .y = y});
      T const right = static_cast<T>(kind == Activation::relu_squared ? far * far : far);
      for (Index i = 0; i < 11; ++i) {
        // silu leaves -200 e^-200 there, a number of a double that no other scalar has.
        CHECK(std::fabs(static_cast<double>(widen(y(0, i)))) <= far * std::exp(-far));
        CHECK(y(1, i) == right);
      }
    }
  };
  check_on(Reference{});
  check_on(Cpu{2});
}

TEST_CASE("activation: dual numbers give the derivatives in closed form") {
  Index const n = 17;
  auto const at = test::random_tensor<double>(Shape{Index{1}, n}, 1, 2);
  Tensor<Dual<double>, 2> x{Shape{Index{1}, n}}, y{Shape{Index{1}, n}};
  for (Index i = 0; i < n; ++i) x(0, i) = Dual<double>{at(0, i), 1};
  auto const derivative = [](Activation kind, double v) {
    double const s = 1 / (1 + std::exp(-v)), pi = 3.14159265358979323846;
    double const c = std::sqrt(2 / pi), t = std::tanh(c * (v + 0.044715 * v * v * v));
    switch (kind) {
      case Activation::identity:
        return 1.0;
      case Activation::relu:
        return v > 0 ? 1.0 : 0.0;
      case Activation::relu_squared:
        return v > 0 ? 2 * v : 0.0;
      case Activation::silu:
        return s * (1 + v * (1 - s));
      case Activation::gelu_erf:
        return 0.5 * (1 + std::erf(v / std::sqrt(2.0))) + v * std::exp(-v * v / 2) / std::sqrt(2 * pi);
      case Activation::gelu_tanh:
        return 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * c * (1 + 3 * 0.044715 * v * v);
    }
    return 0.0;
  };
  for (Activation kind : kinds) {
    INFO(to_string(kind));
    activation(Reference{}, ActivationArgs<Dual<double>>{.kind = kind, .x = x, .y = y});
    Tensor<double, 2> got{Shape{Index{1}, n}}, expected{Shape{Index{1}, n}};
    for (Index i = 0; i < n; ++i) got(0, i) = y(0, i).tangent, expected(0, i) = derivative(kind, at(0, i));
    CHECK_CLOSE(verify::compare(got.view(), expected.view(), verify::Cost{.terms = 4}));
  }
}

TEST_CASE("activation: arguments that disagree and kinds that are none are refused with their values") {
  Tensor<float, 2> x{Shape{Index{2}, Index{8}}}, y{Shape{Index{2}, Index{7}}};
  CHECK_THROWS_WITH_AS(activation(Reference{}, ActivationArgs<float>{.x = x, .y = y}),
                       "activation: y has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(gated_unit(Reference{}, GatedUnitArgs<float>{.gate = x, .value = y, .y = x}),
                       "gated_unit: value has shape (2, 7), gate asks for (2, 8): extent 1 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(gated_unit(Reference{}, GatedUnitArgs<float>{.gate = x, .value = x, .y = y}),
                       "gated_unit: y has shape (2, 7), gate asks for (2, 8): extent 1 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(activation(Cpu{1}, ActivationArgs<float>{.kind = static_cast<Activation>(9), .x = x, .y = x}),
                       "activation: kind is 9, which is no activation", value_error);
}
