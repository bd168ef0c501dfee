#pragma once
/// \file
/// One call that checks an operation, or a function of yours in its place, against the exact reference.
///
///   check<RmsNormProblem, bf16>(Cpu{})                              the library's operation on a context
///   check_with<RmsNormProblem, bf16>([](auto const& args) { … })    your function on the same argument struct

#include <cstdint>
#include <tuple>
#include <utility>

#include <blackmamba/verify/inputs.hpp>
#include <blackmamba/verify/placement.hpp>
#include <blackmamba/verify/report.hpp>

namespace blackmamba::verify {

/// The scalar that the reference computes in: wider than what is checked.
template <Scalar T>
using reference_scalar = std::conditional_t<std::is_same_v<T, double>, long double, double>;

/// An output of a problem, and what its error is allowed to depend on. Integers have no cost: they must be equal.
template <class T, int Rank>
struct Output {
  char const* name;
  Tensor<T, Rank> const& tensor;
  Cost cost{};
  bool present = true;  ///< whether the operation was given it
};
template <class T, int Rank, class... Rest>
Output(char const*, Tensor<T, Rank> const&, Rest...) -> Output<T, Rank>;

/// A problem: its sizes, its tensors in one scalar, the operation's arguments over them, and the outputs.
template <class P>
concept Problem = requires(P& problem, P const& solved, typename P::Size const& size, Placement<Reference>& place) {
  { P::name } -> std::convertible_to<char const*>;
  { P::sizes() } -> std::convertible_to<std::vector<typename P::Size>>;
  { to_string(size) } -> std::convertible_to<std::string>;
  P::operation(Reference{}, problem.args(place));
  std::tuple_size<decltype(solved.outputs())>::value;
};

/// How a check is made.
struct Options {
  std::uint64_t seed = 1;  ///< of the inputs
  Index repetitions = 1;   ///< problems of each size, with seeds that follow one another
};

namespace detail {

/// Checks one output and words what is wrong with it.
template <class T, class E, int Rank>
Result judge(std::string const& op, std::string const& size, Output<T, Rank> const& got, Output<E, Rank> const& expected) {
  Result out{.size = size, .output = got.name};
  auto const in = concat(op, " (", size, "): ");
  if constexpr (std::integral<T>) {
    out.comparison = compare_with(got.tensor.view(), expected.tensor.view(), [](double, double) { return 0.0; });
  } else {
    out.comparison = compare(got.tensor.view(), expected.tensor.view(), got.cost);
    for (E const& x : expected.tensor)
      if (!isfinite(x)) out.failure = concat(in, "the reference's ", got.name, " is not finite");
  }
  if (!out.comparison) {
    auto const& c = out.comparison;
    out.failure = std::isnan(c.got) || c.got == static_cast<double>(std::numeric_limits<T>::lowest())
                      ? concat(in, got.name, " is NaN or was not written at element ", c.at, ", where ", c.expected, " is expected")
                      : concat(in, got.name, " is wrong: ", c.describe());
  }
  return out;
}

template <class Got, class Expected, std::size_t... I>
void judge_all(Report& report, std::string const& op, std::string const& size, Got const& got, Expected const& expected,
               std::index_sequence<I...>) {
  auto const add = [&](auto const& one, auto const& exact) {
    if (one.present) report.results.push_back(judge(op, size, one, exact));
  };
  (add(std::get<I>(got), std::get<I>(expected)), ...);
}

}  // namespace detail

/// Checks `function(args)`, which does what the problem's operation does with the same argument struct, against the reference,
/// which gets the same inputs in a wider scalar. Every output starts as NaN. An exception is a failure like any other.
/// \param ctx  whose memory `function` works on
template <template <Scalar> class P, Scalar T, class Function, class Ctx = Reference>
Report check_with(Function&& function, Options const& options = {}, std::vector<typename P<T>::Size> const& sizes = P<T>::sizes(),
                  Ctx const& ctx = {}) {
  using E = reference_scalar<T>;
  static_assert(Problem<P<T>> && Problem<P<E>>);
  Report report{.title = concat(P<T>::name, ", ", scalar_traits<T>::name)};
  for (auto const& size : sizes)
    for (Index repetition = 0; repetition < options.repetitions; ++repetition) {
      auto const seed = options.seed + static_cast<std::uint64_t>(repetition);
      auto const words = options.repetitions == 1 ? to_string(size) : concat(to_string(size), ", seed ", seed);
      Inputs<T> inputs{seed}, same_inputs{seed};
      P<T> problem{size, inputs};
      P<E> exact{size, same_inputs};
      Placement<Reference> host{Reference{}};
      P<E>::operation(Reference{}, exact.args(host));
      try {
        Placement<Ctx> place{ctx};
        function(problem.args(place));
        place.finish();
      } catch (std::exception const& thrown) {
        report.results.push_back(
            {.size = words, .output = "-", .failure = concat(P<T>::name, " (", words, ") threw: ", thrown.what())});
        continue;
      }
      auto const outputs = problem.outputs();
      auto const expected = exact.outputs();
      constexpr auto count = std::tuple_size_v<std::remove_const_t<decltype(outputs)>>;
      detail::judge_all(report, P<T>::name, words, outputs, expected, std::make_index_sequence<count>{});
    }
  return report;
}

/// Checks the library's operation on `ctx` against the reference.
template <template <Scalar> class P, Scalar T, class Ctx>
Report check(Ctx const& ctx, Options const& options = {}, std::vector<typename P<T>::Size> const& sizes = P<T>::sizes()) {
  auto report = check_with<P, T>([&](auto const& args) { P<T>::operation(ctx, args); }, options, sizes, ctx);
  report.title += concat(", ", Ctx::name);
  return report;
}

/// Checks the operation on one context against the same operation on another: the same inputs in `T` on both, and outputs that may
/// differ by what each of them may be wrong. `check` is the stronger one, for it knows the exact answer; this one needs no
/// reference, and so sizes can be as large as the contexts can take.
template <template <Scalar> class P, Scalar T, class Mine, class Theirs>
Report check_between(Mine const& mine, Theirs const& theirs, Options const& options = {},
                     std::vector<typename P<T>::Size> const& sizes = P<T>::sizes()) {
  static_assert(Problem<P<T>>);
  Report report{.title = concat(P<T>::name, ", ", scalar_traits<T>::name, ", ", Mine::name, " against ", Theirs::name)};
  for (auto const& size : sizes)
    for (Index repetition = 0; repetition < options.repetitions; ++repetition) {
      auto const seed = options.seed + static_cast<std::uint64_t>(repetition);
      auto const words = options.repetitions == 1 ? to_string(size) : concat(to_string(size), ", seed ", seed);
      Inputs<T> inputs{seed}, same_inputs{seed};
      P<T> here{size, inputs}, there{size, same_inputs};
      auto const run = [](auto const& ctx, P<T>& problem) {
        Placement<std::remove_cvref_t<decltype(ctx)>> place{ctx};
        P<T>::operation(ctx, problem.args(place));
        place.finish();
      };
      try {
        run(theirs, there);
        run(mine, here);
      } catch (std::exception const& thrown) {
        report.results.push_back(
            {.size = words, .output = "-", .failure = concat(P<T>::name, " (", words, ") threw: ", thrown.what())});
        continue;
      }
      auto const twice = [](auto output) {
        output.cost.roundings += 1, output.cost.gain *= 2;
        return output;
      };
      auto const outputs = std::apply([&](auto const&... one) { return std::tuple{twice(one)...}; }, here.outputs());
      auto const expected = there.outputs();
      constexpr auto count = std::tuple_size_v<std::remove_const_t<decltype(outputs)>>;
      detail::judge_all(report, P<T>::name, words, outputs, expected, std::make_index_sequence<count>{});
    }
  return report;
}

}  // namespace blackmamba::verify
