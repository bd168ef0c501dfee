#include <blackmamba/ops/linear/linear.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// One problem, and its answer from the same rounded inputs in double on the reference.
template <class T>
struct Problem {
  Tensor<T, 2> x, weight;
  Tensor<T, 1> bias;
  Tensor<double, 2> exact;

  Problem(Index M, Index N, Index K, bool with_bias)
      : x{test::random_tensor<T>(Shape{M, K}, 1)},
        weight{test::random_tensor<T>(Shape{N, K}, 2)},
        bias{test::random_tensor<T>(Shape{N}, 3)},
        exact{Shape{M, N}},
        with_bias_{with_bias} {
    auto const x_exact = converted<double>(x), weight_exact = converted<double>(weight);
    auto const bias_exact = converted<double>(bias);
    linear(Reference{},
           LinearArgs<double>{
               .x = x_exact, .weight = weight_exact, .bias = with_bias ? bias_exact.view() : View<double const, 1>{}, .y = exact});
  }

  View<T const, 1> bias_or_none() const { return with_bias_ ? bias.view() : View<T const, 1>{}; }

  template <class Ctx>
  Tensor<T, 2> solve(Ctx const& ctx) const {
    Tensor<T, 2> y{exact.shape()};
    linear(ctx, LinearArgs<T>{.x = x, .weight = weight, .bias = bias_or_none(), .y = y});
    return y;
  }

  verify::Cost cost() const { return {.terms = static_cast<double>(x.extent(1))}; }

 private:
  bool with_bias_;
};

template <class T>
bool same_bits(View<T const, 2> a, View<T const, 2> b) {
  for (Index m = 0; m < a.extent(0); ++m)
    for (Index n = 0; n < a.extent(1); ++n)
      if (std::memcmp(&a(m, n), &b(m, n), sizeof(T)) != 0) return false;
  return a.shape() == b.shape();
}

/// A copy of `source` in memory with `gap` elements between its rows, the gaps filled with 99.
template <class T>
class Padded {
 public:
  Padded(View<T const, 2> source, Index gap) : memory_{Shape{source.extent(0), source.extent(1) + gap}} {
    for (T& value : memory_) value = static_cast<T>(99.0f);
    view_ = memory_.view().slice(1, 0, source.extent(1));
    for (Index m = 0; m < source.extent(0); ++m)
      for (Index k = 0; k < source.extent(1); ++k) view_(m, k) = source(m, k);
  }

  View<T, 2> view() { return view_; }
  bool gaps_untouched() const {
    for (Index m = 0; m < memory_.extent(0); ++m)
      for (Index k = view_.extent(1); k < memory_.extent(1); ++k)
        if (widen(memory_.view()(m, k)) != 99) return false;
    return true;
  }

 private:
  Tensor<T, 2> memory_;
  View<T, 2> view_;
};

}  // namespace

TEST_CASE_TEMPLATE("linear: every scalar and shape agrees with the double reference on every context", T, float, double, half,
                   bf16) {
  for (Index M : {0, 1, 2, 3, 7, 8, 9, 16, 17, 64, 129})
    for (Index N : {0, 1, 3, 8, 25, 67})
      for (Index K : {0, 1, 7, 8, 9, 31, 64, 131}) {
        bool const with_bias = (M + N + K) % 2 == 0;
        INFO(concat("M ", M, ", N ", N, ", K ", K, ", bias ", with_bias));
        Problem<T> const problem{M, N, K, with_bias};
        CHECK_CLOSE(verify::compare(problem.solve(Reference{}).view(), problem.exact.view(), problem.cost()));
        auto const one_thread = problem.solve(Cpu{1}), two_threads = problem.solve(Cpu{2});
        CHECK_CLOSE(verify::compare(two_threads.view(), problem.exact.view(), problem.cost()));
        CHECK(same_bits<T>(one_thread, two_threads));
      }
}

TEST_CASE_TEMPLATE("linear: sizes past one tile of the product agree too, the same bit for bit on 1, 2 and 3 threads", T, float,
                   double, half, bf16) {
  for (bool with_bias : {true, false}) {
    Problem<T> const problem{259, 391, 517, with_bias};
    auto const y = problem.solve(Cpu{1});
    CHECK_CLOSE(verify::compare(y.view(), problem.exact.view(), problem.cost()));
    CHECK(same_bits<T>(y, problem.solve(Cpu{2})));
    CHECK(same_bits<T>(y, problem.solve(Cpu{3})));
  }
}

TEST_CASE_TEMPLATE("linear: long rows of a streamed weight, pieces over threads included, agree with the double reference", T,
                   float, double, half, bf16) {
  for (Index M : {1, 5}) {
    Problem<T> const problem{M, 333, 2051, true};
    auto const y = problem.solve(Cpu{1});
    CHECK_CLOSE(verify::compare(y.view(), problem.exact.view(), problem.cost()));
    CHECK(same_bits<T>(y, problem.solve(Cpu{2})));
  }
}

TEST_CASE_TEMPLATE("linear: with up to 16 rows a row's result does not depend on the others", T, float, double, half, bf16) {
  Problem<T> const problem{16, 37, 205, true};
  auto const together = problem.solve(Cpu{2});
  for (Index count : {1, 2, 3, 4, 7}) {
    Tensor<T, 2> y{Shape{count, Index{37}}};
    linear(Cpu{2}, LinearArgs<T>{.x = problem.x.view().slice(0, 5, count), .weight = problem.weight, .bias = problem.bias, .y = y});
    CHECK(same_bits<T>(y.view(), together.view().slice(0, 5, count)));
  }
}

TEST_CASE_TEMPLATE("linear: rows with gaps between them give the same bits and the gaps stay as they were", T, float, double, half,
                   bf16) {
  for (Index M : {3, 70}) {
    Problem<T> const problem{M, 29, 45, true};
    Padded<T> x{problem.x, 3}, weight{problem.weight, 5}, y{Tensor<T, 2>{problem.exact.shape()}, 1};
    linear(Cpu{2}, LinearArgs<T>{.x = x.view(), .weight = weight.view(), .bias = problem.bias, .y = y.view()});
    CHECK(same_bits<T>(y.view(), problem.solve(Cpu{2})));
    CHECK(y.gaps_untouched());
  }
}

TEST_CASE("linear: strided columns take the reference path and give the same values") {
  Problem<float> const problem{33, 6, 20, true};
  Tensor<float, 2> x_columns{Shape{Index{20}, Index{33}}}, y_columns{Shape{Index{6}, Index{33}}};
  for (Index m = 0; m < 33; ++m)
    for (Index k = 0; k < 20; ++k) x_columns.view()(k, m) = problem.x.view()(m, k);
  auto const y = y_columns.view().transposed(0, 1);
  linear(Cpu{2}, LinearArgs<float>{.x = x_columns.view().transposed(0, 1), .weight = problem.weight, .bias = problem.bias, .y = y});
  CHECK(same_bits<float>(y, problem.solve(Reference{})));
}

TEST_CASE("linear: a bias with a stride is read with it") {
  auto const x = test::random_tensor<float>(Shape{Index{2}, Index{9}}, 1),
             weight = test::random_tensor<float>(Shape{Index{5}, Index{9}}, 2);
  auto const pairs = test::random_tensor<float>(Shape{Index{5}, Index{2}}, 3);
  View<float const, 1> const bias{pairs.data(), Shape<1>{5}, Shape<1>{2}};
  Tensor<float, 2> with{Shape{Index{2}, Index{5}}}, without{Shape{Index{2}, Index{5}}};
  linear(Cpu{2}, LinearArgs<float>{.x = x, .weight = weight, .bias = bias, .y = with});
  linear(Cpu{2}, LinearArgs<float>{.x = x, .weight = weight, .y = without});
  for (Index m = 0; m < 2; ++m)
    for (Index n = 0; n < 5; ++n) CHECK(with.view()(m, n) == without.view()(m, n) + bias(n));
}

TEST_CASE("linear: all temporary memory comes from the context, and is given back") {
  for (Index M : {1, 40}) {
    Cpu const ctx{2};
    Problem<bf16> const problem{M, 50, 60, true};
    problem.solve(ctx);
    problem.solve(ctx);
    CHECK(ctx.scratch().in_use() == 0);
    ctx.scratch().seal();
    CHECK(same_bits<bf16>(problem.solve(ctx), problem.solve(Cpu{1})));
  }
}

TEST_CASE("linear: dual numbers give the derivative x dWᵀ + dx Wᵀ + db, in closed form") {
  using D = Dual<double>;
  Index const M = 3, N = 4, K = 5;
  auto const x = test::random_tensor<double>(Shape{M, K}, 1), dx = test::random_tensor<double>(Shape{M, K}, 2);
  auto const w = test::random_tensor<double>(Shape{N, K}, 3), dw = test::random_tensor<double>(Shape{N, K}, 4);
  auto const b = test::random_tensor<double>(Shape{N}, 5), db = test::random_tensor<double>(Shape{N}, 6);
  Tensor<D, 2> x_dual{Shape{M, K}}, w_dual{Shape{N, K}}, y{Shape{M, N}};
  Tensor<D, 1> b_dual{Shape{N}};
  for (Index i = 0; i < M * K; ++i) x_dual.data()[i] = {x.data()[i], dx.data()[i]};
  for (Index i = 0; i < N * K; ++i) w_dual.data()[i] = {w.data()[i], dw.data()[i]};
  for (Index i = 0; i < N; ++i) b_dual.data()[i] = {b.data()[i], db.data()[i]};
  linear(Cpu{2}, LinearArgs<D>{.x = x_dual, .weight = w_dual, .bias = b_dual, .y = y});

  Tensor<double, 2> first{Shape{M, N}}, second{Shape{M, N}}, tangent{Shape{M, N}};
  linear(Reference{}, LinearArgs<double>{.x = x, .weight = dw, .bias = db, .y = first});
  linear(Reference{}, LinearArgs<double>{.x = dx, .weight = w, .y = second});
  for (Index i = 0; i < M * N; ++i) {
    first.data()[i] += second.data()[i];
    tangent.data()[i] = y.data()[i].tangent;
  }
  CHECK_CLOSE(verify::compare(tangent.view(), first.view(), verify::Cost{.terms = 2.0 * static_cast<double>(K)}));
}

TEST_CASE("linear: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape{Index{2}, Index{8}}}, weight{Shape{Index{5}, Index{7}}}, y{Shape{Index{2}, Index{5}}};
  Tensor<float, 2> matching{Shape{Index{5}, Index{8}}}, wide{Shape{Index{2}, Index{6}}}, tall{Shape{Index{3}, Index{5}}};
  Tensor<float, 1> bias{Shape{Index{4}}};
  CHECK_THROWS_WITH_AS(linear(Cpu{1}, LinearArgs<float>{.x = x, .weight = weight, .y = y}),
                       "linear: weight has shape (5, 7), x asks for (5, 8): extent 1 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(linear(Cpu{1}, LinearArgs<float>{.x = x, .weight = matching, .bias = bias, .y = y}),
                       "linear: bias has shape (4,), weight asks for (5,): extent 0 is 4, not 5", shape_error);
  CHECK_THROWS_WITH_AS(linear(Cpu{1}, LinearArgs<float>{.x = x, .weight = matching, .y = wide}),
                       "linear: y has shape (2, 6), weight asks for (2, 5): extent 1 is 6, not 5", shape_error);
  CHECK_THROWS_WITH_AS(linear(Cpu{1}, LinearArgs<float>{.x = x, .weight = matching, .y = tall}),
                       "linear: y has shape (3, 5), x asks for (2, 5): extent 0 is 3, not 2", shape_error);
}
