#include <blackmamba/ops/activation/backward.hpp>

#include <algorithm>
#include <limits>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

constexpr Activation kinds[]{Activation::identity, Activation::relu,     Activation::relu_squared,
                             Activation::silu,     Activation::gelu_erf, Activation::gelu_tanh};

template <class T>
double largest(Tensor<T, 2> const& x) {
  double out = 0;
  for (T const& v : x) out = std::max(out, std::fabs(static_cast<double>(widen(v))));
  return out;
}

template <class T>
bool same_bits(View<T const, 2> a, View<T const, 2> b) {
  for (Index r = 0; r < a.extent(0); ++r)
    for (Index i = 0; i < a.extent(1); ++i)
      if (std::memcmp(&a(r, i), &b(r, i), sizeof(T)) != 0) return false;
  return a.shape() == b.shape();
}

template <class T, class Ctx>
void check(Ctx const& ctx, Activation kind, Index rows, Index D) {
  INFO(concat(Ctx::name, ", ", to_string(kind), ", rows ", rows, ", D ", D));
  Shape<2> const shape{rows, D};
  auto const x = test::random_tensor<T>(shape, 1, 3), value = test::random_tensor<T>(shape, 2),
             d_y = test::random_tensor<T>(shape, 3);
  auto const wide_x = converted<double>(x), wide_value = converted<double>(value), wide_d_y = converted<double>(d_y);
  Tensor<T, 2> d_x{shape}, d_gate{shape}, d_value{shape};
  Tensor<double, 2> exact_x{shape}, exact_gate{shape}, exact_value{shape};

  activation_backward(ctx, ActivationBackwardArgs<T>{.kind = kind, .x = x, .d_y = d_y, .d_x = d_x});
  activation_backward(Reference{}, ActivationBackwardArgs<double>{.kind = kind, .x = wide_x, .d_y = wide_d_y, .d_x = exact_x});
  gated_unit_backward(
      ctx, GatedUnitBackwardArgs<T>{.kind = kind, .gate = x, .value = value, .d_y = d_y, .d_gate = d_gate, .d_value = d_value});
  gated_unit_backward(
      Reference{},
      GatedUnitBackwardArgs<double>{
          .kind = kind, .gate = wide_x, .value = wide_value, .d_y = wide_d_y, .d_gate = exact_gate, .d_value = exact_value});
  // A derivative is a sum of terms of about 1, which cancel where it changes its sign.
  verify::Cost const of_x{.scale = largest(d_y)}, of_gate{.scale = largest(d_y) * largest(value)};
  CHECK_CLOSE(verify::compare(d_x.view(), exact_x.view(), of_x));
  CHECK_CLOSE(verify::compare(d_gate.view(), exact_gate.view(), of_gate));
  CHECK_CLOSE(verify::compare(d_value.view(), exact_value.view(), of_x));
}

}  // namespace

TEST_CASE_TEMPLATE("activation_backward: every kind, scalar and shape agrees with the double reference on every context", T, float,
                   double, half, bf16) {
  for (Activation kind : kinds)
    for (Index rows : {0, 1, 3})
      for (Index D : {0, 1, 3, 4, 5, 7, 8, 9, 127}) {
        check<T>(Reference{}, kind, rows, D);
        check<T>(Cpu{1}, kind, rows, D);
        check<T>(Cpu{2}, kind, rows, D);
      }
}

TEST_CASE_TEMPLATE("activation_backward: one thread and two give the same bits over many pieces", T, float, double, half, bf16) {
  Shape<2> const shape{3, 20011};
  auto const gate = test::random_tensor<T>(shape, 1), value = test::random_tensor<T>(shape, 2),
             d_y = test::random_tensor<T>(shape, 3);
  for (Activation kind : kinds) {
    INFO(to_string(kind));
    Tensor<T, 2> one{shape}, two{shape}, one_value{shape}, two_value{shape};
    activation_backward(Cpu{1}, ActivationBackwardArgs<T>{.kind = kind, .x = gate, .d_y = d_y, .d_x = one});
    activation_backward(Cpu{2}, ActivationBackwardArgs<T>{.kind = kind, .x = gate, .d_y = d_y, .d_x = two});
    CHECK(same_bits<T>(one, two));
    GatedUnitBackwardArgs<T> args{.kind = kind, .gate = gate, .value = value, .d_y = d_y};
    args.d_gate = one, args.d_value = one_value;
    gated_unit_backward(Cpu{1}, args);
    args.d_gate = two, args.d_value = two_value;
    gated_unit_backward(Cpu{2}, args);
    CHECK(same_bits<T>(one, two));
    CHECK(same_bits<T>(one_value, two_value));
  }
}

TEST_CASE("activation_backward: gradients are those of dual numbers through the forward pass") {
  Shape<2> const shape{3, 13};
  auto const x = test::random_tensor<double>(shape, 1, 3), value = test::random_tensor<double>(shape, 2),
             d_y = test::random_tensor<double>(shape, 3);
  auto const run = [&](auto const& ctx, Activation kind) {
    INFO(to_string(kind));
    Tensor<double, 2> d_x{shape}, d_gate{shape}, d_value{shape};
    activation_backward(ctx, ActivationBackwardArgs<double>{.kind = kind, .x = x, .d_y = d_y, .d_x = d_x});
    test::check_gradients(
        [&](auto const& x_dual) {
          Tensor<Dual<double>, 2> y{shape};
          activation(Reference{}, ActivationArgs<Dual<double>>{.kind = kind, .x = x_dual, .y = y});
          return test::weighted_sum(d_y, y);
        },
        test::Gradient{"x", x, d_x});
    gated_unit_backward(ctx, GatedUnitBackwardArgs<double>{
                                 .kind = kind, .gate = x, .value = value, .d_y = d_y, .d_gate = d_gate, .d_value = d_value});
    test::check_gradients(
        [&](auto const& gate_dual, auto const& value_dual) {
          Tensor<Dual<double>, 2> y{shape};
          gated_unit(Reference{}, GatedUnitArgs<Dual<double>>{.kind = kind, .gate = gate_dual, .value = value_dual, .y = y});
          return test::weighted_sum(d_y, y);
        },
        test::Gradient{"gate", x, d_gate}, test::Gradient{"value", value, d_value});
  };
  for (Activation kind : kinds) {
    run(Reference{}, kind);
    run(Cpu{2}, kind);
  }
}

TEST_CASE("activation_backward: the derivative of softplus is that of dual numbers") {
  auto const x = test::random_tensor<double>(Shape<1>{40}, 1, 10);
  Tensor<double, 1> slopes{x.shape()};
  for (Index i = 0; i < x.size(); ++i) slopes(i) = softplus_derivative(x(i));
  test::check_gradients(
      [](auto const& dual) {
        Dual<double> sum{0};
        for (auto const& v : dual) sum += softplus(v);
        return sum;
      },
      test::Gradient{"x", x, slopes});
}

TEST_CASE_TEMPLATE("activation_backward: relu and its square have slope 0 at 0", Ctx, Reference, Cpu) {
  Tensor<float, 2> x{Shape<2>{1, 9}}, d_y{Shape<2>{1, 9}}, d_x{Shape<2>{1, 9}};
  for (Index i = 0; i < 9; ++i) x(0, i) = i % 2 ? -0.0f : 0.0f, d_y(0, i) = 1;
  for (Activation kind : {Activation::relu, Activation::relu_squared}) {
    activation_backward(Ctx{}, ActivationBackwardArgs<float>{.kind = kind, .x = x, .d_y = d_y, .d_x = d_x});
    for (float v : d_x) CHECK(v == 0);
  }
}

TEST_CASE_TEMPLATE("activation_backward: far out, however far, every slope is 0 on the left and that of the identity on the right",
                   T, float, double, half, bf16) {
  auto const check_on = [&](auto const& ctx, double far) {
    INFO("at ", far);
    Tensor<T, 2> x{Shape<2>{2, 11}}, d_y{Shape<2>{2, 11}}, d_x{Shape<2>{2, 11}};
    for (Index i = 0; i < 11; ++i) {
      x(0, i) = static_cast<T>(-far), x(1, i) = static_cast<T>(far);
      d_y(0, i) = d_y(1, i) = static_cast<T>(1.0);
    }
    for (Activation kind : kinds) {
      if (kind == Activation::identity || kind == Activation::relu_squared) continue;
      INFO(to_string(kind));
      activation_backward(ctx, ActivationBackwardArgs<T>{.kind = kind, .x = x, .d_y = d_y, .d_x = d_x});
      for (Index i = 0; i < 11; ++i) {
        // silu leaves -199 e^-200 there, a number of a double that no other scalar has.
        CHECK(std::fabs(static_cast<double>(widen(d_x(0, i)))) <= far * std::exp(-far));
        CHECK(widen(d_x(1, i)) == 1);
      }
    }
  };
  for (double far : {200.0, std::is_same_v<T, half> ? 6e4 : 1e37}) {
    check_on(Reference{}, far);
    check_on(Cpu{2}, far);
  }
}

TEST_CASE("activation_backward: a strided last dimension takes the reference path and gives the same values") {
  auto const x = test::random_tensor<float>(Shape<2>{9, 4}, 1);
  auto const d_y = test::random_tensor<float>(Shape<2>{4, 9}, 2);
  Tensor<float, 2> d_x{Shape<2>{4, 9}}, reference{Shape<2>{4, 9}};
  auto const columns = x.view().transposed(0, 1);
  activation_backward(Cpu{2}, ActivationBackwardArgs<float>{.kind = Activation::silu, .x = columns, .d_y = d_y, .d_x = d_x});
  activation_backward(Reference{},
                      ActivationBackwardArgs<float>{.kind = Activation::silu, .x = columns, .d_y = d_y, .d_x = reference});
  CHECK(same_bits<float>(d_x, reference));
  gated_unit_backward(
      Cpu{2}, GatedUnitBackwardArgs<float>{.kind = Activation::silu, .gate = d_y, .value = columns, .d_y = d_y, .d_gate = d_x});
  gated_unit_backward(Reference{}, GatedUnitBackwardArgs<float>{
                                       .kind = Activation::silu, .gate = d_y, .value = columns, .d_y = d_y, .d_gate = reference});
  CHECK(same_bits<float>(d_x, reference));
}

TEST_CASE_TEMPLATE(
    "gated_unit_backward: the gradients may take the places of the inputs, in halves of one matrix, or one be absent", Ctx,
    Reference, Cpu) {
  Index const rows = 5, D = 19;
  Activation const kind = Activation::gelu_tanh;
  auto const both = test::random_tensor<float>(Shape{rows, 2 * D}, 1), d_y = test::random_tensor<float>(Shape{rows, D}, 2);
  Tensor<float, 2> d_gate{Shape{rows, D}}, d_value{Shape{rows, D}};
  Ctx const ctx;
  auto const args_in = [&](auto const& memory) {
    return GatedUnitBackwardArgs<float>{
        .kind = kind, .gate = memory.view().slice(1, 0, D), .value = memory.view().slice(1, D, D), .d_y = d_y};
  };
  auto args = args_in(both);
  args.d_gate = d_gate, args.d_value = d_value;
  gated_unit_backward(ctx, args);

  for (bool crossed : {false, true}) {
    auto memory = both.clone();
    auto const left = memory.view().slice(1, 0, D), right = memory.view().slice(1, D, D);
    auto in_place = args_in(memory);
    in_place.d_gate = crossed ? right : left, in_place.d_value = crossed ? left : right;
    gated_unit_backward(ctx, in_place);
    CHECK(same_bits<float>(in_place.d_gate, d_gate));
    CHECK(same_bits<float>(in_place.d_value, d_value));
  }
  for (bool gate : {false, true}) {
    auto only = d_y.clone();
    auto alone = args_in(both);
    alone.d_y = only;
    (gate ? alone.d_gate : alone.d_value) = only;
    gated_unit_backward(ctx, alone);
    CHECK(same_bits<float>(only, gate ? d_gate : d_value));
  }
  for (bool of_y : {false, true}) {
    auto x = d_gate.clone(), gradient = d_y.clone(), expected = d_y.clone();
    activation_backward(ctx, ActivationBackwardArgs<float>{.kind = kind, .x = x, .d_y = gradient, .d_x = expected});
    auto const place = of_y ? gradient.view() : x.view();
    activation_backward(ctx, ActivationBackwardArgs<float>{.kind = kind, .x = x, .d_y = gradient, .d_x = place});
    CHECK(same_bits<float>(place, expected));
  }
}

TEST_CASE("activation_backward: arguments that disagree and kinds that are none are refused with their values") {
  Tensor<float, 2> x{Shape<2>{2, 8}}, wrong{Shape<2>{2, 7}};
  CHECK_THROWS_WITH_AS(activation_backward(Reference{}, ActivationBackwardArgs<float>{.x = x, .d_y = wrong, .d_x = x}),
                       "activation_backward: d_y has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(activation_backward(Reference{}, ActivationBackwardArgs<float>{.x = x, .d_y = x}),
                       "activation_backward: d_x has shape (0, 0), x asks for (2, 8): extent 0 is 0, not 2", shape_error);
  CHECK_THROWS_WITH_AS(
      activation_backward(Cpu{1}, ActivationBackwardArgs<float>{.kind = static_cast<Activation>(9), .x = x, .d_y = x, .d_x = x}),
      "activation_backward: kind is 9, which is no activation", value_error);
  auto const refused = [&](GatedUnitBackwardArgs<float> const& args, char const* message) {
    CHECK_THROWS_WITH_AS(gated_unit_backward(Cpu{1}, args), message, shape_error);
  };
  refused({.gate = x, .value = wrong, .d_y = x},
          "gated_unit_backward: value has shape (2, 7), gate asks for (2, 8): extent 1 is 7, not 8");
  refused({.gate = x, .value = x, .d_y = wrong},
          "gated_unit_backward: d_y has shape (2, 7), gate asks for (2, 8): extent 1 is 7, not 8");
  refused({.gate = x, .value = x, .d_y = x, .d_gate = wrong},
          "gated_unit_backward: d_gate has shape (2, 7), gate asks for (2, 8): extent 1 is 7, not 8");
  refused({.gate = x, .value = x, .d_y = x, .d_value = wrong},
          "gated_unit_backward: d_value has shape (2, 7), gate asks for (2, 8): extent 1 is 7, not 8");
}
