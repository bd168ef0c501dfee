#pragma once
/// \file
/// The next token of each row, from its logits.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/random.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/sample/options.hpp>

namespace blackmamba {

/// Arguments of `sample`.
template <Scalar T>
struct SampleArgs {
  View<T const, 2> logits{};       ///< (B, V); -inf masks a token
  SampleOptions options{};         ///< the same for every row
  Random random{0};                ///< the stream that rows draw one number each from
  View<Index const, 1> draws{};    ///< (B) which number of the stream; absent: row b draws number b
  View<Token const, 2> history{};  ///< (B, n) tokens that the repetition penalty is for; negative: not there yet; absent: none
  View<Token, 1> tokens{};         ///< (B) the choice
};

namespace detail {

struct sample_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, SampleArgs<T> const& a) const {
    Index const B = a.logits.extent(0), V = a.logits.extent(1);
    check(a.options, "sample");
    check_shape("sample", "tokens", a.tokens, Shape{B}, "logits");
    if (a.draws) check_shape("sample", "draws", a.draws, Shape{B}, "logits");
    if (a.history) check_shape("sample", "history", a.history, Shape{B, a.history.extent(1)}, "logits");
    check_value(V <= 0x7fffffff, "sample", "the vocabulary has ", V, " tokens, and a token holds at most 2147483647");
    ProfileRange const range{"sample"};
    sample_on(ctx, a);
  }
};

}  // namespace detail

/// Chooses a token for each row of logits: by temperature 0 the most probable one, otherwise at random.
///
///   s_v = penalty(logit_v) / temperature ;   q = softmax(s) over the tokens that top-k, top-p and min-p keep, in this order ;
///   token = the least v with q_0 + … + q_v > u, where u = random.uniform(draws[b]) is uniform on (0, 1)
///
/// Shapes: logits (B, V); draws, tokens (B); history (B, n). Any strides. Logits are stored in `T`; scores are doubles, and
/// probabilities are added up as whole multiples of 2^-46 of the largest one (of less bits for more than 65535 tokens): the same
/// logits and seed give the same token on every context, `Cuda` included, for any number of threads and on any platform.
/// A row's token depends on its logits, its history and its draw alone, not on the batch. A token with probability 0 is never
/// chosen; one below 2^-47 of the most probable counts as such.
/// A history may be wider than what it holds, so that it can grow in place: entries below 0 are not there yet.
/// `tokens` may alias a column of `history`. Does not synchronise.
/// Throws `shape_error` naming the argument that disagrees, and `value_error`: an option outside its domain, with its value; a
/// history token of V or more or a negative draw, with position and value; a row whose logits hold NaN or +inf, or nothing but
/// -inf, with the row (the tokens then hold nothing of use). On `Cuda` what is wrong with the data is thrown by the next wait for
/// the context, the token of a row with such logits is 0, and history tokens outside the vocabulary are passed over. Sources: see
/// sample/filters.hpp, which has a function for each step.
inline constexpr detail::sample_fn sample{};

}  // namespace blackmamba

#include <blackmamba/ops/sample/reference.hpp>
