// A check that cannot fail is worth nothing: each of these plants a bug and wants to see it found.

#include <blackmamba/verify/problems/rms_norm.hpp>
#include <blackmamba/verify/problems/route.hpp>
#include <blackmamba/verify/problems/selective_scan.hpp>

#include <functional>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

namespace {

bool mentions(Report const& report, std::string const& words) {
  for (auto const& sentence : report.failures())
    if (sentence.find(words) != std::string::npos) return true;
  return false;
}

/// Every size that `relevant` names fails, and no other.
template <class P, class Relevant>
void check_found_in(Report const& report, Relevant const& relevant) {
  CHECK_FALSE(static_cast<bool>(report));
  for (auto const& size : P::sizes()) {
    bool failed = false;
    for (auto const& r : report.results) failed = failed || (r.size == to_string(size) && !r);
    INFO(to_string(size));
    CHECK(failed == relevant(size));
  }
}

/// A context that replaces one operation and keeps the rest.
struct Forgetful : Cpu {
  using Cpu::Cpu;
};
template <Scalar T>
void selective_scan_on(Forgetful const& ctx, SelectiveScanArgs<T> args) {
  args.D = {};
  selective_scan_on(static_cast<Cpu const&>(ctx), args);
}

}  // namespace

TEST_CASE_TEMPLATE("verify: a scan that forgets D is found wherever there is a D", T, float, double, half, bf16) {
  using P = SelectiveScanProblem<T>;
  auto const report = check_with<SelectiveScanProblem, T>([](SelectiveScanArgs<T> args) {
    args.D = {};
    selective_scan(Cpu{2}, args);
  });
  check_found_in<P>(report, [](auto const& s) { return s.with_D && s.batch * s.L * s.D > 0; });
  CHECK(mentions(report, "y is wrong"));
}

TEST_CASE_TEMPLATE("verify: a scan that stops one step early is found, in y and in the state", T, float, double, half, bf16) {
  using P = SelectiveScanProblem<T>;
  auto const report = check_with<SelectiveScanProblem, T>([](SelectiveScanArgs<T> args) {
    if (args.offsets || args.u.extent(1) == 0) return selective_scan(Cpu{2}, args);
    Index const L = args.u.extent(1) - 1;
    args.u = args.u.slice(1, 0, L), args.delta = args.delta.slice(1, 0, L), args.y = args.y.slice(1, 0, L);
    args.B = args.B.slice(1, 0, L), args.C = args.C.slice(1, 0, L);
    if (args.z) args.z = args.z.slice(1, 0, L);
    selective_scan(Cpu{2}, args);
  });
  check_found_in<P>(report, [](auto const& s) { return !s.packed && s.batch * s.L * s.D > 0; });
  CHECK(mentions(report, "y is NaN or was not written at element"));
  CHECK(mentions(report, "last_state is wrong"));
}

TEST_CASE_TEMPLATE("verify: a scan that does not leave its last state is found", T, float, bf16) {
  using P = SelectiveScanProblem<T>;
  auto const report = check_with<SelectiveScanProblem, T>([](SelectiveScanArgs<T> args) {
    args.last_state = {};
    selective_scan(Reference{}, args);
  });
  check_found_in<P>(report, [](auto const& s) { return s.with_state && (s.packed ? s.packed : s.batch) * s.D * s.N > 0; });
  CHECK(mentions(report, "last_state is NaN or was not written at element 0"));
}

TEST_CASE_TEMPLATE("verify: a scan that ignores where packed sequences begin is found", T, float, bf16) {
  auto const report = check_with<SelectiveScanProblem, T>([](SelectiveScanArgs<T> args) {
    if (args.offsets && args.initial_state) args.offsets = {}, args.initial_state = args.last_state = {};
    selective_scan(Reference{}, args);
  });
  check_found_in<SelectiveScanProblem<T>>(report, [](auto const& s) { return s.packed > 0; });
}

TEST_CASE_TEMPLATE("verify: a norm that divides by D - 1 is found", T, float, double, half, bf16) {
  auto const report = check_with<RmsNormProblem, T>([](RmsNormArgs<T> const& args) {
    rms_norm(Cpu{1}, args);
    auto const D = static_cast<accumulator_t<T>>(args.y.extent(1));
    if (D > 1)
      for (Index r = 0; r < args.y.extent(0); ++r)
        for (Index i = 0; i < args.y.extent(1); ++i) args.y(r, i) = static_cast<T>(widen(args.y(r, i)) * sqrt((D - 1) / D));
  });
  check_found_in<RmsNormProblem<T>>(report, [](auto const& s) { return s.rows > 0 && s.D > 1; });
}

TEST_CASE_TEMPLATE("verify: one element of NaN among right ones is found, and its place is named", T, float, bf16) {
  auto const report = check_with<RmsNormProblem, T>(
      [](RmsNormArgs<T> const& args) {
        rms_norm(Reference{}, args);
        args.y(1, 5) = static_cast<T>(NAN);
      },
      {}, {{.rows = 3, .D = 9}});
  CHECK(mentions(report, "rms_norm (rows 3, D 9, x, residual): y is NaN or was not written at element 14"));
  CHECK(report.failures().size() == 1);
}

TEST_CASE("verify: an output two units in the last place away is found, and the same one without the error is not") {
  auto const off_by = [](double units) {
    return check_with<RmsNormProblem, bf16>(
        [=](RmsNormArgs<bf16> const& args) {
          rms_norm(Reference{}, args);
          args.y(0, 0) = bf16{static_cast<double>(widen(args.y(0, 0))) * (1 + units * 0x1p-7)};
        },
        {}, {{.rows = 1, .D = 8}});
  };
  CHECK(static_cast<bool>(off_by(0)));
  CHECK_FALSE(static_cast<bool>(off_by(2)));
}

TEST_CASE("verify: a router that writes experts but swaps two of them is found exactly") {
  auto const report = check_with<RouteTopKSoftmaxProblem, float>([](RouteArgs<float> const& args) {
    route_top_k_softmax(Reference{}, args);
    if (args.experts.extent(0) > 0 && args.experts.extent(1) > 1) std::swap(args.experts(0, 0), args.experts(0, 1));
  });
  check_found_in<RouteTopKSoftmaxProblem<float>>(report, [](auto const& s) { return s.tokens > 0 && s.k > 1; });
  CHECK(mentions(report, "experts is wrong"));
  auto const silent = check_with<RouteTopKSoftmaxProblem, float>([](RouteArgs<float> const&) {});
  CHECK(mentions(silent, "experts is NaN or was not written"));
  CHECK(mentions(silent, "weights is NaN or was not written"));
}

TEST_CASE("verify: an exception is a failure with its words, and the other sizes are still checked") {
  auto const report = check_with<RmsNormProblem, float>([](RmsNormArgs<float> const& args) {
    check_value(args.y.extent(1) != 7, "mine", "cannot do 7");
    rms_norm(Cpu{1}, args);
  });
  check_found_in<RmsNormProblem<float>>(report, [](auto const& s) { return s.D == 7; });
  CHECK(mentions(report, "rms_norm (rows 1, D 7, x) threw: mine: cannot do 7"));
}

TEST_CASE("verify: a report of nothing does not hold, and a table shows each line with its verdict") {
  CHECK_FALSE(static_cast<bool>(Report{}));
  auto const none = check_with<RmsNormProblem, float>([](auto const&) {}, {}, {});
  CHECK_FALSE(static_cast<bool>(none));
  CHECK(none.table().find("nothing was checked") != std::string::npos);
  auto const good = check<RmsNormProblem, bf16>(Cpu{1}, {}, {{.rows = 2, .D = 3, .with_residual = false}});
  CHECK(good.table().rfind("rms_norm, bf16, cpu\n", 0) == 0);
  CHECK(good.table().find("rows 2, D 3, x  y              6") != std::string::npos);
  CHECK(good.table().find("FAILED") == std::string::npos);
  CHECK(good.share() > 0);
  CHECK(good.share() <= 1);
}

TEST_CASE("verify: repetitions draw other inputs, and a seed gives the same ones again") {
  auto const inputs = [](std::uint64_t seed) {
    Inputs<bf16> in{seed};
    return std::move(RmsNormProblem<bf16>{{.rows = 2, .D = 5}, in}.x);
  };
  auto const a = inputs(1), again = inputs(1), b = inputs(2);
  CHECK(static_cast<bool>(compare_scaled(a.view(), again.view(), 0)));
  CHECK_FALSE(static_cast<bool>(compare_scaled(a.view(), b.view(), 0)));
  auto const report = check<RmsNormProblem, float>(Cpu{1}, {.seed = 7, .repetitions = 3}, {{.rows = 1, .D = 4}});
  CHECK(report.results.size() == 6);
  CHECK(report.results[4].size == "rows 1, D 4, x, residual, seed 9");
}

TEST_CASE_TEMPLATE("verify: the exact twin starts from the same values as the problem", T, float, half, bf16) {
  Inputs<T> in{3}, same{3};
  SelectiveScanProblem<T> const problem{{.batch = 2, .L = 5, .D = 3, .N = 4}, in};
  SelectiveScanProblem<double> const exact{{.batch = 2, .L = 5, .D = 3, .N = 4}, same};
  CHECK(static_cast<bool>(compare_scaled(problem.u.view(), exact.u.view(), 0)));
  CHECK(static_cast<bool>(compare_scaled(problem.delta.view(), exact.delta.view(), 0)));
  CHECK(static_cast<bool>(compare_scaled(problem.A.view(), exact.A.view(), 0)));
  CHECK(static_cast<bool>(compare_scaled(problem.initial_state.view(), exact.initial_state.view(), 0)));
  for (T const& x : problem.y) CHECK(std::isnan(static_cast<float>(x)));
}

namespace {

/// A context with memory of its own, as a device has: what is not brought back is not seen.
struct Elsewhere : Reference {
  static constexpr char const* name = "elsewhere";
};

}  // namespace

namespace blackmamba::verify {

template <>
struct Placement<Elsewhere> {
  explicit Placement(Elsewhere const&) {}
  Arena there;
  std::vector<std::function<void()>> bring_back;

  template <class T, int Rank>
  View<T const, Rank> in(Tensor<T, Rank> const& tensor, bool present = true) {
    return present ? copied(tensor) : View<T, Rank>{};
  }
  template <class T, int Rank>
  View<T, Rank> out(Tensor<T, Rank>& tensor, bool present = true) {
    if (!present) return {};
    auto const view = copied(tensor);
    bring_back.push_back([=, &tensor] { std::copy_n(view.data(), view.size(), tensor.data()); });
    return view;
  }
  void finish() {
    for (auto const& copy : bring_back) copy();
  }

 private:
  template <class T, int Rank>
  View<T, Rank> copied(Tensor<T, Rank> const& tensor) {
    auto const view = there.template take<T>(tensor.shape());
    std::copy_n(tensor.data(), tensor.size(), view.data());
    return view;
  }
};

}  // namespace blackmamba::verify

TEST_CASE("verify: a context with memory of its own is checked through its placement") {
  test::check_report(check<RmsNormProblem, bf16>(Elsewhere{}));
  test::check_report(check<SelectiveScanProblem, float>(Elsewhere{}));
}

TEST_CASE("verify: two contexts that do the same agree, and one that errs is found against the other") {
  auto const good = check_between<SelectiveScanProblem, bf16>(Cpu{2}, Reference{});
  test::check_report(good);
  CHECK(good.title == "selective_scan, bf16, cpu against reference");
  auto const large =
      check_between<SelectiveScanProblem, float>(Cpu{2}, Cpu{1}, {.seed = 3}, {{.batch = 2, .L = 300, .D = 40, .N = 16}});
  test::check_report(large);
  CHECK(large.results.size() == 2);
  auto const report = check_between<SelectiveScanProblem, float>(Forgetful{}, Reference{});
  check_found_in<SelectiveScanProblem<float>>(report, [](auto const& s) { return s.with_D && s.batch * s.L * s.D > 0; });
}
