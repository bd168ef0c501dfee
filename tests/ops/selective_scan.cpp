#include <blackmamba/ops/selective_scan/selective_scan.hpp>

#include <vector>

#include "support/scan_problem.hpp"

using namespace blackmamba;
using test::run_scan;
using test::ScanOptions;
using test::ScanProblem;
using test::ScanSizes;

namespace {

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

template <class T>
void check(ScanSizes const& s, ScanOptions const& options) {
  auto const problem = ScanProblem<T>::make(s, options);
  auto const exact_problem = problem.template in<double>();
  auto const exact = run_scan(Reference{}, exact_problem.args());
  auto const on = [&](auto const& ctx) {
    INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", G ", s.G, ", threads ", ctx.threads(), ", "),
         options.describe());
    auto got = run_scan(ctx, problem.args());
    CHECK_CLOSE(verify::compare(got.y.view(), exact.y.view(), problem.cost()));
    CHECK_CLOSE(verify::compare(got.last.view(), exact.last.view(), problem.cost()));
    return got;
  };
  on(Reference{});
  auto const one = on(Cpu{1});
  auto const two = on(Cpu{2});
  CHECK(same_bits(one.y, two.y));
  CHECK(same_bits(one.last, two.last));
}

/// Calls `body` with each context.
template <class Body>
void on_every_context(Body&& body) {
  body(Reference{});
  body(Cpu{1});
  body(Cpu{2});
}

}  // namespace

TEST_CASE_TEMPLATE("selective_scan: every scalar and option agrees with the double reference on both contexts", T, float, double,
                   half, bf16) {
  for (int bits = 0; bits < 32; ++bits) check<T>({2, 5, 9, 3, 1}, ScanOptions::from_bits(bits));
}

TEST_CASE_TEMPLATE("selective_scan: every shape agrees with the double reference, and one thread with two", T, float, double, half,
                   bf16) {
  for (ScanSizes const& s : {ScanSizes{0, 3, 4, 2, 1},
                             {2, 0, 5, 3, 1},
                             {2, 3, 0, 4, 1},
                             {1, 4, 5, 0, 1},
                             {1, 1, 1, 1, 1},
                             {1, 9, 8, 16, 2},
                             {2, 4, 9, 17, 3},
                             {1, 6, 17, 64, 1},
                             {1, 3, 66, 130, 2},
                             {1, 33, 130, 16, 1},
                             {3, 4, 6, 5, 6},
                             {1, 600, 3, 16, 1},
                             {5, 2, 64, 1, 1}})
    check<T>(s, ScanOptions{});
}

TEST_CASE("selective_scan: a sequence cut anywhere and continued from its last state equals the whole, bit for bit") {
  ScanSizes const s{2, 7, 11, 5, 1};
  auto const problem = ScanProblem<float>::make(s, ScanOptions{});
  on_every_context([&](auto const& ctx) {
    auto const whole = run_scan(ctx, problem.args());
    for (Index cut = 0; cut <= s.L; ++cut) {
      Tensor<float, 3> y{Shape{s.B, s.L, s.D}};
      auto state = problem.initial.clone();
      for (auto const& [begin, count] : {std::pair{Index{0}, cut}, std::pair{cut, s.L - cut}}) {
        auto args = problem.args();
        args.u = args.u.slice(1, begin, count);
        args.delta = args.delta.slice(1, begin, count);
        args.z = args.z.slice(1, begin, count);
        args.B = args.B.slice(1, begin, count);
        args.C = args.C.slice(1, begin, count);
        args.y = y.view().slice(1, begin, count);
        args.initial_state = state;
        args.last_state = state;
        selective_scan(ctx, args);
      }
      CHECK(same_bits(y, whole.y));
      CHECK(same_bits(state, whole.last));
    }
  });
}

TEST_CASE("selective_scan: packed sequences of unequal length equal separate ones, bit for bit, and threads do not matter") {
  Tensor<Index, 1> offsets{Shape{Index{7}}};
  Index const ends[]{0, 0, 4, 5, 5, 18, 18};
  std::copy_n(ends, 7, offsets.data());
  ScanSizes const s{1, 18, 19, 16, 1};
  auto const problem = ScanProblem<double>::make(s, ScanOptions{}, 6);
  on_every_context([&](auto const& ctx) {
    auto packed_args = problem.args();
    packed_args.offsets = offsets;
    auto const packed = run_scan(ctx, packed_args);
    for (Index q = 0; q < 6; ++q) {
      Index const begin = ends[q], count = ends[q + 1] - begin;
      auto args = problem.args();
      args.u = args.u.slice(1, begin, count);
      args.delta = args.delta.slice(1, begin, count);
      args.z = args.z.slice(1, begin, count);
      args.B = args.B.slice(1, begin, count);
      args.C = args.C.slice(1, begin, count);
      args.initial_state = args.initial_state.slice(0, q, 1);
      auto const alone = run_scan(ctx, args);
      for (Index t = 0; t < count; ++t)
        for (Index d = 0; d < s.D; ++d) CHECK(packed.y(0, begin + t, d) == alone.y(0, t, d));
      for (Index d = 0; d < s.D; ++d)
        for (Index n = 0; n < s.N; ++n) CHECK(packed.last(q, d, n) == alone.last(0, d, n));
    }
  });
}

TEST_CASE("selective_scan: length 0 leaves the state as it was, and zeros where there was none") {
  auto problem = ScanProblem<float>::make({2, 0, 9, 4, 1}, ScanOptions{});
  on_every_context([&](auto const& ctx) {
    problem.options.initial = true;
    CHECK(same_bits(run_scan(ctx, problem.args()).last, problem.initial));
    problem.options.initial = false;
    auto args = problem.args();
    auto last = problem.initial.clone();
    Tensor<float, 3> y{problem.u.shape()};
    args.y = y;
    args.last_state = last;
    selective_scan(ctx, args);
    for (float x : last) CHECK(x == 0);
  });
}

TEST_CASE_TEMPLATE("selective_scan: y may be u, delta or z, and last_state the initial state", T, float, bf16) {
  ScanSizes const s{2, 6, 21, 16, 1};
  auto const problem = ScanProblem<T>::make(s, ScanOptions{});
  on_every_context([&](auto const& ctx) {
    auto const expected = run_scan(ctx, problem.args());
    for (int which = 0; which < 3; ++which) {
      auto in_place = which == 0 ? problem.u.clone() : which == 1 ? problem.delta.clone() : problem.z.clone();
      auto state = problem.initial.clone();
      auto args = problem.args();
      (which == 0 ? args.u : which == 1 ? args.delta : args.z) = in_place;
      args.y = in_place;
      args.initial_state = state;
      args.last_state = state;
      selective_scan(ctx, args);
      CHECK(same_bits(in_place, expected.y));
      CHECK(same_bits(state, expected.last));
    }
  });
}

TEST_CASE_TEMPLATE("selective_scan: strides change nothing: halves of wider rows, time innermost, a transposed A", T, double,
                   half) {
  ScanSizes const s{2, 5, 12, 3, 2};
  auto const problem = ScanProblem<T>::make(s, ScanOptions{});
  Tensor<T, 3> wide{Shape{s.B, s.L, 2 * s.D}}, delta{Shape{s.B, s.D, s.L}};
  Tensor<T, 4> B{Shape{s.B, s.G, s.N, s.L}};
  Tensor<accumulator_t<T>, 2> A{Shape{s.N, s.D}};
  Tensor<accumulator_t<T>, 3> initial{Shape{s.B, s.N, s.D}};
  for (Index b = 0; b < s.B; ++b)
    for (Index d = 0; d < s.D; ++d) {
      for (Index t = 0; t < s.L; ++t) {
        wide(b, t, d) = problem.u(b, t, d);
        wide(b, t, s.D + d) = problem.z(b, t, d);
        delta(b, d, t) = problem.delta(b, t, d);
      }
      for (Index n = 0; n < s.N; ++n) {
        A(n, d) = problem.A(d, n);
        initial(b, n, d) = problem.initial(b, d, n);
      }
    }
  for (Index b = 0; b < s.B; ++b)
    for (Index t = 0; t < s.L; ++t)
      for (Index g = 0; g < s.G; ++g)
        for (Index n = 0; n < s.N; ++n) B(b, g, n, t) = problem.B(b, t, g, n);
  on_every_context([&](auto const& ctx) {
    auto const expected = run_scan(ctx, problem.args());
    auto args = problem.args();
    args.u = wide.view().slice(2, 0, s.D);
    args.z = wide.view().slice(2, s.D, s.D);
    args.delta = delta.view().transposed(1, 2);
    args.A = A.view().transposed(0, 1);
    args.B = B.view().transposed(2, 3).transposed(1, 2);
    args.initial_state = initial.view().transposed(1, 2);
    Tensor<T, 3> y{Shape{s.B, s.D, s.L}};
    Tensor<accumulator_t<T>, 3> last{Shape{s.B, s.D, s.N}};
    args.y = y.view().transposed(1, 2);
    args.last_state = last;
    selective_scan(ctx, args);
    for (Index b = 0; b < s.B; ++b)
      for (Index t = 0; t < s.L; ++t)
        for (Index d = 0; d < s.D; ++d) CHECK(y(b, d, t) == expected.y(b, t, d));
    CHECK(same_bits(last, expected.last));
  });
}

TEST_CASE("selective_scan: working memory does not grow with the length") {
  std::size_t peak[2];
  for (int i = 0; i < 2; ++i) {
    auto const problem = ScanProblem<float>::make({1, i ? 2000 : 20, 40, 16, 1}, ScanOptions{});
    Cpu const ctx{2};
    run_scan(ctx, problem.args());
    peak[i] = ctx.scratch().peak();
  }
  CHECK(peak[0] > 0);
  CHECK(peak[0] == peak[1]);
}

TEST_CASE("selective_scan: extreme step sizes forget or keep the state, and NaN stays where it is") {
  ScanSizes const s{1, 3, 9, 4, 1};
  auto problem = ScanProblem<float>::make(s, ScanOptions{.D = false, .z = false, .bias = false, .softplus = false});
  for (float& x : problem.delta) x = 0;
  problem.delta(0, 1, 3) = 1e30f;  // this channel forgets everything, and δ B u is still finite
  problem.u(0, 2, 5) = std::numeric_limits<float>::quiet_NaN();
  on_every_context([&](auto const& ctx) {
    auto const got = run_scan(ctx, problem.args());
    for (Index d = 0; d < s.D; ++d)
      for (Index n = 0; n < s.N; ++n) {
        if (d == 3)
          CHECK(got.last(0, d, n) == 1e30f * problem.u(0, 1, d) * problem.B(0, 1, 0, n));
        else if (d == 5)
          CHECK(std::isnan(got.last(0, d, n)));
        else
          CHECK(got.last(0, d, n) == problem.initial(0, d, n));
      }
  });
}

TEST_CASE("selective_scan: on dual numbers it gives the derivative in every argument at once") {
  // Against a central difference in long double, whose error is of the order of the square of its step.
  constexpr double step = 0x1p-17;
  using Real = long double;
  ScanSizes const s{1, 6, 4, 3, 2};
  auto const problem = ScanProblem<double>::make(s, ScanOptions{});
  auto duals = problem.in<Dual<double>>();
  auto above = problem.in<Real>(), below = problem.in<Real>();
  std::uint64_t seed = 20;
  auto const move = [&](auto& dual, auto& up, auto& down) {
    Random const random{seed++};
    for (Index i = 0; i < dual.size(); ++i) {
      double const direction = random.normal(static_cast<std::uint64_t>(i));
      dual.data()[i].tangent = direction;
      up.data()[i] += Real{step} * direction;
      down.data()[i] -= Real{step} * direction;
    }
  };
  move(duals.u, above.u, below.u);
  move(duals.delta, above.delta, below.delta);
  move(duals.z, above.z, below.z);
  move(duals.A, above.A, below.A);
  move(duals.B, above.B, below.B);
  move(duals.C, above.C, below.C);
  move(duals.D, above.D, below.D);
  move(duals.bias, above.bias, below.bias);
  move(duals.initial, above.initial, below.initial);
  auto const got = run_scan(Reference{}, duals.args());
  auto const up = run_scan(Reference{}, above.args()), down = run_scan(Reference{}, below.args());
  Tensor<double, 3> tangent{problem.u.shape()}, difference{problem.u.shape()};
  for (Index i = 0; i < tangent.size(); ++i) {
    tangent.data()[i] = got.y.data()[i].tangent;
    difference.data()[i] = static_cast<double>((up.y.data()[i] - down.y.data()[i]) / (2 * Real{step}));
  }
  CHECK_CLOSE(verify::compare_scaled(tangent.view(), difference.view(), 16 * step * step));
}

TEST_CASE("selective_scan: arguments that disagree are refused with their numbers") {
  auto const problem = ScanProblem<float>::make({2, 3, 6, 4, 1}, ScanOptions{});
  Tensor<float, 3> y{problem.u.shape()};
  auto const with = [&](auto&& change) {
    auto args = problem.args();
    args.y = y;
    change(args);
    selective_scan(Reference{}, args);
  };
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.delta = a.delta.slice(1, 0, 2); }),
                       "selective_scan: delta has shape (2, 2, 6), u asks for (2, 3, 6): extent 1 is 2, not 3", shape_error);
  Tensor<float, 4> four_groups{Shape{Index{2}, Index{3}, Index{4}, Index{4}}};
  CHECK_THROWS_WITH_AS(with([&](auto& a) { a.B = four_groups; }),
                       "selective_scan: B has 4 groups, which do not divide the 6 channels of u", shape_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.initial_state = a.initial_state.slice(0, 0, 1); }),
                       "selective_scan: initial_state has shape (1, 6, 4), u and A asks for (2, 6, 4): extent 0 is 1, not 2",
                       shape_error);
  Tensor<Index, 1> offsets{Shape{Index{3}}};
  CHECK_THROWS_WITH_AS(with([&](auto& a) { a.offsets = offsets; }),
                       "selective_scan: packed sequences need a batch of 1, u or x has a batch of 2", shape_error);

  auto const single = ScanProblem<float>::make({1, 3, 6, 4, 1}, ScanOptions{.initial = false});
  auto const packed = [&](Index o0, Index o1, Index o2) {
    offsets(0) = o0, offsets(1) = o1, offsets(2) = o2;
    auto args = single.args();
    args.offsets = offsets;
    on_every_context([&](auto const& ctx) { run_scan(ctx, args); });
  };
  CHECK_THROWS_WITH_AS(packed(1, 2, 3), "selective_scan: offsets[0] is 1, not 0", value_error);
  CHECK_THROWS_WITH_AS(packed(0, 4, 3), "selective_scan: offsets[2] is 3, less than offsets[1], which is 4", value_error);
  CHECK_THROWS_WITH_AS(packed(0, 2, 2), "selective_scan: offsets[2] is 2, not the length 3", value_error);
}
