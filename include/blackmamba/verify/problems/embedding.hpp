#pragma once
/// \file
/// Problems for `embedding` and `embedding_backward`.

#include <blackmamba/ops/embedding/backward.hpp>
#include <blackmamba/ops/embedding/embedding.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct EmbeddingSize {
  Index n = 0, V = 1, D = 0;
  Index used = 0;  ///< tokens are below this, if it is not 0: 1 gives all positions one token
};

inline std::string to_string(EmbeddingSize const& s) {
  return concat("n ", s.n, ", V ", s.V, ", D ", s.D, s.used ? concat(", tokens below ", s.used) : "");
}

namespace detail {

inline std::vector<EmbeddingSize> embedding_sizes() {
  return {{0, 5, 4}, {3, 5, 0}, {1, 1, 1}, {7, 3, 9}, {64, 50, 8}, {129, 17, 33, 1}, {300, 1000, 12, 9}};
}

}  // namespace detail

template <Scalar T>
struct EmbeddingProblem {
  using Size = EmbeddingSize;
  static constexpr char const* name = "embedding";
  static constexpr auto operation = embedding;
  static std::vector<Size> sizes() { return detail::embedding_sizes(); }

  Size size;
  Tensor<Token, 1> tokens;
  Tensor<T, 2> weight, y;

  template <class Stored>
  EmbeddingProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        tokens{in.template integers<Token>(Shape<1>{s.n}, s.used ? s.used : s.V)},
        weight{in.template storage<T>(Shape<2>{s.V, s.D})},
        y{unwritten<T>(Shape<2>{s.n, s.D})} {}

  auto args(auto& place) { return EmbeddingArgs<T>{.tokens = place.in(tokens), .weight = place.in(weight), .y = place.out(y)}; }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.terms = 0}}}; }
};

template <Scalar T>
struct EmbeddingBackwardProblem {
  using Size = EmbeddingSize;
  static constexpr char const* name = "embedding_backward";
  static constexpr auto operation = embedding_backward;
  static std::vector<Size> sizes() { return detail::embedding_sizes(); }

  Size size;
  Tensor<Token, 1> tokens;
  Tensor<T, 2> d_y;
  Tensor<accumulator_t<T>, 2> d_weight;

  template <class Stored>
  EmbeddingBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        tokens{in.template integers<Token>(Shape<1>{s.n}, s.used ? s.used : s.V)},
        d_y{in.template storage<T>(Shape<2>{s.n, s.D})},
        d_weight{in.template accumulator<accumulator_t<T>>(Shape<2>{s.V, s.D})} {}

  auto args(auto& place) {
    return EmbeddingBackwardArgs<T>{.tokens = place.in(tokens), .d_y = place.in(d_y), .d_weight = place.out(d_weight)};
  }
  auto outputs() const {
    // A token has n / used positions or so, and numbers of size 1 and either sign sum to the root of their count.
    auto const terms = 1 + static_cast<double>(size.n) / static_cast<double>(size.used ? size.used : size.V);
    return std::tuple{Output{"d_weight", d_weight, Cost{.terms = terms, .scale = std::sqrt(terms)}}};
  }
};

}  // namespace blackmamba::verify
