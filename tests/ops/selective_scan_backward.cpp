#include <blackmamba/ops/selective_scan/backward.hpp>

#include <cstring>

#include "support/scan_problem.hpp"

using namespace blackmamba;
using test::random_tensor;
using test::ScanOptions;
using test::ScanProblem;
using test::ScanSizes;

namespace {

/// What the gradients are held to against dual numbers, as a share of the largest.
constexpr double bound = 1e-12;

/// Every gradient that the operation gives.
template <class T>
struct Gradients {
  using Acc = accumulator_t<T>;
  Tensor<T, 3> u, delta, z;
  Tensor<Acc, 2> A;
  Tensor<T, 4> B, C;
  Tensor<Acc, 1> D, bias;
  Tensor<Acc, 3> initial;

  explicit Gradients(ScanProblem<T> const& p)
      : u{p.u.shape()},
        delta{p.u.shape()},
        z{p.u.shape()},
        A{p.A.shape()},
        B{p.B.shape()},
        C{p.C.shape()},
        D{p.D.shape()},
        bias{p.bias.shape()},
        initial{p.initial.shape()} {}

  /// Calls `body` with the name of each gradient, it, and that of `other`.
  template <class Other, class Body>
  void with(Other& other, Body&& body) {
    body("d_u", u, other.u), body("d_delta", delta, other.delta), body("d_z", z, other.z), body("d_A", A, other.A);
    body("d_B", B, other.B), body("d_C", C, other.C), body("d_D", D, other.D), body("d_delta_bias", bias, other.bias);
    body("d_initial_state", initial, other.initial);
  }
};

/// What comes back through the outputs.
template <class T>
struct Incoming {
  Tensor<T, 3> y;
  Tensor<accumulator_t<T>, 3> last;

  static Incoming make(ScanProblem<T> const& p) {
    return {random_tensor<T>(p.u.shape(), 10), random_tensor<accumulator_t<T>>(p.initial.shape(), 11)};
  }
  template <class To>
  Incoming<To> in() const {
    return {converted<To>(y), converted<accumulator_t<To>>(last)};
  }
};

template <class T>
SelectiveScanBackwardArgs<T> backward_args(ScanProblem<T> const& p, Incoming<T> const& incoming, Gradients<T>& out) {
  auto const forward = p.args();
  SelectiveScanBackwardArgs<T> a{.u = forward.u,
                                 .delta = forward.delta,
                                 .A = forward.A,
                                 .B = forward.B,
                                 .C = forward.C,
                                 .D = forward.D,
                                 .z = forward.z,
                                 .delta_bias = forward.delta_bias,
                                 .delta_softplus = forward.delta_softplus,
                                 .initial_state = forward.initial_state,
                                 .d_y = incoming.y,
                                 .d_last_state = incoming.last,
                                 .d_u = out.u,
                                 .d_delta = out.delta,
                                 .d_A = out.A,
                                 .d_B = out.B,
                                 .d_C = out.C,
                                 .d_initial_state = out.initial};
  if (p.options.D) a.d_D = out.D;
  if (p.options.z) a.d_z = out.z;
  if (p.options.bias) a.d_delta_bias = out.bias;
  return a;
}

template <class T, class Ctx>
Gradients<T> run(Ctx const& ctx, ScanProblem<T> const& p, Incoming<T> const& incoming, View<Index const, 1> offsets = {},
                 bool with_kept = false) {
  Gradients<T> out{p};
  auto args = backward_args(p, incoming, out);
  args.offsets = offsets;
  Tensor<accumulator_t<T>, 4> kept;
  if (with_kept) {
    Tensor<T, 3> y{p.u.shape()};
    kept = Tensor<accumulator_t<T>, 4>{Shape<4>{p.u.extent(0), scan_chunks(p.u.extent(1)), p.A.extent(1), p.u.extent(2)}};
    auto forward = p.args();
    forward.offsets = offsets, forward.y = y, forward.last_state = {}, forward.kept = kept;
    selective_scan(ctx, forward);
    args.kept = kept;
  }
  selective_scan_backward(ctx, args);
  return out;
}

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

/// Sums run over the states, over time, over the batch, and over the channels of a group; rounded once.
verify::Cost cost(ScanSizes const& s) { return {.terms = static_cast<double>(s.N + s.B * s.L + s.L + s.D), .scale = 1}; }

template <class T>
void check(ScanSizes const& s, ScanOptions const& options, View<Index const, 1> offsets = {}) {
  auto const problem = ScanProblem<T>::make(s, options, offsets ? offsets.extent(0) - 1 : -1);
  auto const incoming = Incoming<T>::make(problem);
  auto exact = run(Reference{}, problem.template in<double>(), incoming.template in<double>(), offsets);
  auto const on = [&](auto const& ctx) {
    INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", G ", s.G, ", threads ", ctx.threads(), ", "),
         options.describe());
    auto const checked = [&](bool with_kept) {
      INFO(concat("states of the forward pass: ", with_kept));
      auto got = run(ctx, problem, incoming, offsets, with_kept);
      got.with(exact, [&](char const* name, auto const& mine, auto const& theirs) {
        INFO(name);
        CHECK_CLOSE(verify::compare(mine.view(), theirs.view(), cost(s)));
      });
      return got;
    };
    checked(false);
    return checked(true);
  };
  on(Reference{});
  auto one = on(Cpu{1}), two = on(Cpu{2});
  one.with(two, [](char const* name, auto const& a, auto const& b) {
    INFO(name);
    CHECK(same_bits(a, b));
  });
}

template <class Body>
void on_every_context(Body&& body) {
  body(Reference{});
  body(Cpu{1});
  body(Cpu{2});
}

/// The derivative of y · incoming.y + last_state · incoming.last along the tangents of `p`.
double derivative(ScanProblem<Dual<double>> const& p, Incoming<double> const& incoming, View<Index const, 1> offsets) {
  auto args = p.args();
  args.offsets = offsets;
  auto const out = test::run_scan(Reference{}, args);
  double sum = 0;
  for (Index i = 0; i < out.y.size(); ++i) sum += out.y.data()[i].tangent * incoming.y.data()[i];
  for (Index i = 0; i < out.last.size(); ++i) sum += out.last.data()[i].tangent * incoming.last.data()[i];
  return sum;
}

void check_against_duals(ScanSizes const& s, ScanOptions const& options, View<Index const, 1> offsets = {}) {
  INFO(options.describe());
  auto const problem = ScanProblem<double>::make(s, options, offsets ? offsets.extent(0) - 1 : -1);
  auto const incoming = Incoming<double>::make(problem);
  auto duals = problem.template in<Dual<double>>();
  Gradients<double> single{problem};
  struct Inputs {
    Tensor<Dual<double>, 3>&u, &delta, &z;
    Tensor<Dual<double>, 2>& A;
    Tensor<Dual<double>, 4>&B, &C;
    Tensor<Dual<double>, 1>&D, &bias;
    Tensor<Dual<double>, 3>& initial;
  } inputs{duals.u, duals.delta, duals.z, duals.A, duals.B, duals.C, duals.D, duals.bias, duals.initial};
  single.with(inputs, [&](char const*, auto& gradient, auto& input) {
    for (Index i = 0; i < input.size(); ++i) {
      input.data()[i].tangent = 1;
      gradient.data()[i] = derivative(duals, incoming, offsets);
      input.data()[i].tangent = 0;
    }
  });

  auto const on = [&](auto const& ctx) {
    INFO(concat("threads ", ctx.threads()));
    auto got = run(ctx, problem, incoming, offsets);
    if (!options.initial)  // the duals see no initial state to vary
      for (Index i = 0; i < got.initial.size(); ++i) got.initial.data()[i] = 0;
    got.with(single, [](char const* name, auto const& mine, auto const& theirs) {
      INFO(name);
      CHECK_CLOSE(verify::compare_scaled(mine.view(), theirs.view(), bound));
    });
    Tensor<double, 1> along{Shape{Index{4}}}, expected{Shape{Index{4}}};
    for (Index direction = 0; direction < 4; ++direction) {
      auto seed = static_cast<std::uint64_t>(100 * direction);
      got.with(inputs, [&](char const*, auto const& gradient, auto& input) {
        Random const random{++seed};
        for (Index i = 0; i < input.size(); ++i) {
          double const tangent = random.normal(static_cast<std::uint64_t>(i));
          input.data()[i].tangent = tangent;
          along(direction) += gradient.data()[i] * tangent;
        }
      });
      expected(direction) = derivative(duals, incoming, offsets);
    }
    got.with(inputs, [](char const*, auto const&, auto& input) {
      for (auto& x : input) x.tangent = 0;
    });
    CHECK_CLOSE(verify::compare_scaled(along.view(), expected.view(), bound));
  };
  on_every_context(on);
}

Tensor<Index, 1> offsets_of(std::initializer_list<Index> values) {
  Tensor<Index, 1> out{Shape{static_cast<Index>(values.size())}};
  std::copy(values.begin(), values.end(), out.data());
  return out;
}

}  // namespace

TEST_CASE(
    "selective_scan_backward: equals dual numbers through the forward pass, in every coordinate and along random directions") {
  for (int bits = 0; bits < 32; ++bits) check_against_duals({2, 5, 6, 3, 2}, ScanOptions::from_bits(bits));
  check_against_duals({1, 21, 5, 2, 1}, ScanOptions{});
  auto const offsets = offsets_of({0, 0, 4, 5, 5, 12, 12});
  check_against_duals({1, 12, 6, 2, 3}, ScanOptions{}, offsets);
}

TEST_CASE_TEMPLATE("selective_scan_backward: every scalar and option agrees with the double reference on both contexts", T, float,
                   double, half, bf16) {
  for (int bits = 0; bits < 32; ++bits) check<T>({2, 5, 9, 3, 1}, ScanOptions::from_bits(bits));
}

TEST_CASE_TEMPLATE("selective_scan_backward: every shape agrees with the double reference, and one thread with two", T, float,
                   double, half, bf16) {
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
                             {7, 19, 3, 4, 1},
                             {1, 600, 3, 16, 1},
                             {5, 2, 64, 1, 1}})
    check<T>(s, ScanOptions{});
}

TEST_CASE_TEMPLATE("selective_scan_backward: packed sequences, empty ones among them, agree with the double reference", T, float,
                   double, bf16) {
  auto const offsets = offsets_of({0, 0, 4, 5, 5, 23, 40, 40});
  check<T>({1, 40, 19, 5, 1}, ScanOptions{}, offsets);
  auto const empty = offsets_of({0, 0, 0});
  check<T>({1, 0, 9, 3, 3}, ScanOptions{}, empty);
}

TEST_CASE("selective_scan_backward: a sequence cut anywhere hands its gradient on through the state") {
  ScanSizes const s{2, 7, 11, 5, 1};
  auto const problem = ScanProblem<double>::make(s, ScanOptions{});
  auto const incoming = Incoming<double>::make(problem);
  on_every_context([&](auto const& ctx) {
    auto whole = run(ctx, problem, incoming);
    for (Index cut = 0; cut <= s.L; ++cut) {
      Tensor<double, 3> middle{problem.initial.shape()}, y{problem.u.shape()}, d_middle{problem.initial.shape()};
      auto forward = problem.args();
      auto const cut_to = [](auto& args, Index begin, Index count) {
        args.u = args.u.slice(1, begin, count), args.delta = args.delta.slice(1, begin, count);
        args.z = args.z.slice(1, begin, count);
        args.B = args.B.slice(1, begin, count), args.C = args.C.slice(1, begin, count);
      };
      cut_to(forward, 0, cut);
      forward.y = y.view().slice(1, 0, cut);
      forward.last_state = middle;
      selective_scan(ctx, forward);

      Gradients<double> parts{problem};
      auto const part = [&](Index begin, Index count) {
        auto args = backward_args(problem, incoming, parts);
        cut_to(args, begin, count);
        args.d_y = args.d_y.slice(1, begin, count);
        args.d_u = args.d_u.slice(1, begin, count), args.d_delta = args.d_delta.slice(1, begin, count);
        args.d_z = args.d_z.slice(1, begin, count);
        args.d_B = args.d_B.slice(1, begin, count), args.d_C = args.d_C.slice(1, begin, count);
        return args;
      };
      auto second = part(cut, s.L - cut);
      second.initial_state = middle;
      second.d_initial_state = d_middle;
      selective_scan_backward(ctx, second);
      auto first = part(0, cut);
      first.d_last_state = d_middle;
      selective_scan_backward(ctx, first);
      parts.with(whole, [&](char const* name, auto const& mine, auto const& theirs) {
        INFO(name);
        CHECK_CLOSE(verify::compare(mine.view(), theirs.view(), cost(s)));
      });
    }
  });
}

TEST_CASE("selective_scan_backward: parameters' gradients are added to, the others overwritten") {
  ScanSizes const s{2, 6, 9, 4, 3};
  auto const problem = ScanProblem<double>::make(s, ScanOptions{});
  auto const incoming = Incoming<double>::make(problem);
  on_every_context([&](auto const& ctx) {
    auto from_zero = run(ctx, problem, incoming);
    Gradients<double> from_one{problem};
    from_one.with(from_one, [](char const*, auto& x, auto&) {
      for (auto& element : x) element = 1;
    });
    selective_scan_backward(ctx, backward_args(problem, incoming, from_one));
    for (auto* parameter : {&from_zero.D, &from_zero.bias})
      for (double& x : *parameter) x += 1;
    for (double& x : from_zero.A) x += 1;
    from_one.with(from_zero, [&](char const* name, auto const& mine, auto const& theirs) {
      INFO(name);
      CHECK_CLOSE(verify::compare(mine.view(), theirs.view(), cost(s)));
    });
    CHECK(same_bits(from_one.u, from_zero.u));
    CHECK(same_bits(from_one.B, from_zero.B));
    CHECK(same_bits(from_one.initial, from_zero.initial));
  });
}

TEST_CASE("selective_scan_backward: any gradient may be left out, and the others are the same bits") {
  auto const problem = ScanProblem<float>::make({1, 9, 10, 4, 2}, ScanOptions{});
  auto const incoming = Incoming<float>::make(problem);
  on_every_context([&](auto const& ctx) {
    auto all = run(ctx, problem, incoming);
    for (int left_out = 0; left_out < 9; ++left_out) {
      Gradients<float> some{problem};
      auto args = backward_args(problem, incoming, some);
      int at = 0;
      auto const drop = [&](auto& view) {
        if (at++ == left_out) view = {};
      };
      drop(args.d_u), drop(args.d_delta), drop(args.d_z), drop(args.d_A), drop(args.d_B), drop(args.d_C), drop(args.d_D);
      drop(args.d_delta_bias), drop(args.d_initial_state);
      selective_scan_backward(ctx, args);
      at = 0;
      some.with(all, [&](char const* name, auto const& mine, auto const& theirs) {
        INFO(name);
        if (at++ == left_out)
          for (float x : mine) CHECK(x == 0);
        else
          CHECK(same_bits(mine, theirs));
      });
    }
  });
}

TEST_CASE("selective_scan_backward: an absent gradient of the last state is a zero one") {
  auto const problem = ScanProblem<float>::make({2, 5, 9, 3, 1}, ScanOptions{});
  auto incoming = Incoming<float>::make(problem);
  for (float& x : incoming.last) x = 0;
  on_every_context([&](auto const& ctx) {
    auto zero = run(ctx, problem, incoming);
    Gradients<float> absent{problem};
    auto args = backward_args(problem, incoming, absent);
    args.d_last_state = {};
    selective_scan_backward(ctx, args);
    absent.with(zero, [](char const* name, auto const& a, auto const& b) {
      INFO(name);
      CHECK(same_bits(a, b));
    });
  });
}

TEST_CASE_TEMPLATE("selective_scan_backward: strides change nothing: halves of wider rows, time innermost, a transposed A", T,
                   double, half) {
  ScanSizes const s{2, 5, 12, 3, 2};
  auto const problem = ScanProblem<T>::make(s, ScanOptions{});
  auto const incoming = Incoming<T>::make(problem);
  auto const time_inner = [&](View<T const, 3> rows) {
    Tensor<T, 3> out{Shape{s.B, s.D, s.L}};
    for (Index b = 0; b < s.B; ++b)
      for (Index t = 0; t < s.L; ++t)
        for (Index d = 0; d < s.D; ++d) out(b, d, t) = rows(b, t, d);
    return out;
  };
  auto const u = time_inner(problem.u), delta = time_inner(problem.delta), z = time_inner(problem.z), d_y = time_inner(incoming.y);
  Tensor<accumulator_t<T>, 2> A{Shape{s.N, s.D}}, d_A{Shape{s.N, s.D}};
  for (Index d = 0; d < s.D; ++d)
    for (Index n = 0; n < s.N; ++n) A(n, d) = problem.A(d, n);
  on_every_context([&](auto const& ctx) {
    auto expected = run(ctx, problem, incoming);
    Gradients<T> got{problem};
    auto args = backward_args(problem, incoming, got);
    args.u = u.view().transposed(1, 2);
    args.delta = delta.view().transposed(1, 2);
    args.z = z.view().transposed(1, 2);
    args.d_y = d_y.view().transposed(1, 2);
    args.A = A.view().transposed(0, 1);
    args.d_A = d_A.view().transposed(0, 1);
    Tensor<T, 3> wide{Shape{s.B, s.L, 2 * s.D}}, d_delta{Shape{s.B, s.D, s.L}};
    Tensor<T, 4> d_B{Shape{s.B, s.G, s.N, s.L}};
    args.d_u = wide.view().slice(2, 0, s.D);
    args.d_z = wide.view().slice(2, s.D, s.D);
    args.d_delta = d_delta.view().transposed(1, 2);
    args.d_B = d_B.view().transposed(2, 3).transposed(1, 2);
    for (auto& x : d_A) x = 0;
    selective_scan_backward(ctx, args);
    for (Index b = 0; b < s.B; ++b)
      for (Index t = 0; t < s.L; ++t) {
        for (Index d = 0; d < s.D; ++d) {
          CHECK(wide(b, t, d) == expected.u(b, t, d));
          CHECK(wide(b, t, s.D + d) == expected.z(b, t, d));
          CHECK(d_delta(b, d, t) == expected.delta(b, t, d));
        }
        for (Index g = 0; g < s.G; ++g)
          for (Index n = 0; n < s.N; ++n) CHECK(d_B(b, g, n, t) == expected.B(b, t, g, n));
      }
    for (Index d = 0; d < s.D; ++d)
      for (Index n = 0; n < s.N; ++n) CHECK(d_A(n, d) == expected.A(d, n));
  });
}

TEST_CASE("selective_scan_backward: working memory grows as the root of the length, and with the batch until threads are busy") {
  auto const peak = [](Index batch, Index length) {
    auto const problem = ScanProblem<float>::make({batch, length, 128, 4, 1}, ScanOptions{});
    Cpu const ctx{2};
    run(ctx, problem, Incoming<float>::make(problem));
    return ctx.scratch().peak();
  };
  CHECK(peak(1, 2048) < 5 * peak(1, 128));
  CHECK(peak(40, 128) == peak(16, 128));
}

TEST_CASE("selective_scan_backward: arguments that disagree are refused with their numbers") {
  auto const problem = ScanProblem<float>::make({2, 3, 6, 4, 1}, ScanOptions{});
  auto const incoming = Incoming<float>::make(problem);
  Gradients<float> out{problem};
  auto const with = [&](auto&& change) {
    auto args = backward_args(problem, incoming, out);
    change(args);
    on_every_context([&](auto const& ctx) { selective_scan_backward(ctx, args); });
  };
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.d_y = a.d_y.slice(1, 0, 2); }),
                       "selective_scan_backward: d_y has shape (2, 2, 6), u asks for (2, 3, 6): extent 1 is 2, not 3", shape_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.d_A = a.d_A.slice(1, 0, 3); }),
                       "selective_scan_backward: d_A has shape (6, 3), A asks for (6, 4): extent 1 is 3, not 4", shape_error);
  CHECK_THROWS_WITH_AS(
      with([](auto& a) { a.d_last_state = a.d_last_state.slice(0, 0, 1); }),
      "selective_scan_backward: d_last_state has shape (1, 6, 4), u and A asks for (2, 6, 4): extent 0 is 1, not 2", shape_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.D = {}; }), "selective_scan_backward: d_D is asked for, and D is absent", value_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.z = {}; }), "selective_scan_backward: d_z is asked for, and z is absent", value_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.delta_bias = {}; }),
                       "selective_scan_backward: d_delta_bias is asked for, and delta_bias is absent", value_error);
  auto const offsets = offsets_of({0, 3});
  CHECK_THROWS_WITH_AS(with([&](auto& a) { a.offsets = offsets; }),
                       "selective_scan_backward: packed sequences need a batch of 1, u or x has a batch of 2", shape_error);
}
