#pragma once
/// \file
/// Problems for the two ends of a mixture of experts: the sort of tokens by expert, gather and combine, and their gradients.

#include <blackmamba/ops/dispatch/backward.hpp>
#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct DispatchSize {
  Index tokens = 0, k = 1, E = 1, D = 1;
  bool in_place = false;  ///< of combine's gradient: d_x is x
};

inline std::string to_string(DispatchSize const& s) {
  return concat("tokens ", s.tokens, ", k ", s.k, ", E ", s.E, ", D ", s.D, s.in_place ? ", d_x in the place of x" : "");
}

/// Assignments at random, about one in E + 1 of them dropped, and where the reference sorts them to.
template <Scalar T>
struct Dispatched {
  using Size = DispatchSize;
  static std::vector<Size> sizes() {
    return {{0, 2, 3, 4}, {1, 1, 1, 1}, {1, 2, 8, 1152}, {5, 3, 2, 7}, {33, 2, 4, 0}, {64, 1, 8, 129}, {131, 2, 8, 1031}};
  }

  Size size;
  Tensor<int, 2> experts;
  Tensor<Index, 1> offsets, order;
  Tensor<Index, 2> places;

  template <class Stored>
  Dispatched(Size const& s, Inputs<Stored>& in)
      : size{s},
        experts{in.template integers<int>(Shape<2>{s.tokens, s.k}, s.E + 1)},
        offsets{unwritten<Index>(Shape<1>{s.E + 1})},
        order{unwritten<Index>(Shape<1>{s.tokens * s.k})},
        places{unwritten<Index>(Shape<2>{s.tokens, s.k})} {
    for (int& e : experts) --e;
  }

  void sort() { dispatch(Reference{}, DispatchArgs{.experts = experts, .offsets = offsets, .order = order, .places = places}); }
  /// Rows of places that no assignment has become NaN: they must not be read.
  template <class X>
  void spoil_unused(Tensor<X, 2>& rows) const {
    for (Index p = offsets(size.E); p < rows.extent(0); ++p)
      for (Index d = 0; d < rows.extent(1); ++d) rows(p, d) = static_cast<X>(std::numeric_limits<accumulator_t<X>>::quiet_NaN());
  }
  Shape<2> by_token() const { return {size.tokens, size.D}; }
  Shape<2> by_place() const { return {size.tokens * size.k, size.D}; }
};

/// Integers alone: the scalar does not matter.
template <Scalar T>
struct DispatchProblem : Dispatched<T> {
  static constexpr char const* name = "dispatch";
  static constexpr auto operation = dispatch;
  using Dispatched<T>::Dispatched;

  auto args(auto& place) {
    return DispatchArgs{.experts = place.in(this->experts),
                        .offsets = place.out(this->offsets),
                        .order = place.out(this->order),
                        .places = place.out(this->places)};
  }
  auto outputs() const {
    return std::tuple{Output{"offsets", this->offsets}, Output{"order", this->order}, Output{"places", this->places}};
  }
};

template <Scalar T>
struct GatherTokensProblem : Dispatched<T> {
  static constexpr char const* name = "gather_tokens";
  static constexpr auto operation = gather_tokens;
  Tensor<T, 2> x, y;

  template <class Stored>
  GatherTokensProblem(DispatchSize const& s, Inputs<Stored>& in)
      : Dispatched<T>{s, in}, x{in.template storage<T>(this->by_token())}, y{in.template storage<T>(this->by_place())} {
    this->sort();
  }
  auto args(auto& place) {
    return GatherArgs<T>{.x = place.in(x), .order = place.in(this->order), .slots = this->size.k, .y = place.out(y)};
  }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.terms = 0}}}; }
};

template <Scalar T>
struct GatherBackwardProblem : Dispatched<T> {
  static constexpr char const* name = "gather_tokens_backward";
  static constexpr auto operation = gather_tokens_backward;
  Tensor<T, 2> d_y, d_x;

  template <class Stored>
  GatherBackwardProblem(DispatchSize const& s, Inputs<Stored>& in)
      : Dispatched<T>{s, in}, d_y{in.template storage<T>(this->by_place())}, d_x{unwritten<T>(this->by_token())} {
    this->sort();
    this->spoil_unused(d_y);
  }
  auto args(auto& place) {
    return GatherBackwardArgs<T>{.places = place.in(this->places), .d_y = place.in(d_y), .d_x = place.out(d_x)};
  }
  auto outputs() const { return std::tuple{Output{"d_x", d_x, Cost{.terms = static_cast<double>(this->size.k), .scale = 1}}}; }
};

template <Scalar T>
struct CombineProblem : Dispatched<T> {
  static constexpr char const* name = "combine";
  static constexpr auto operation = combine;
  Tensor<T, 2> x, y;
  Tensor<accumulator_t<T>, 2> weights;

  template <class Stored>
  CombineProblem(DispatchSize const& s, Inputs<Stored>& in)
      : Dispatched<T>{s, in},
        x{in.template storage<T>(this->by_place())},
        y{unwritten<T>(this->by_token())},
        weights{in.template accumulator<accumulator_t<T>>(Shape<2>{s.tokens, s.k})} {
    this->sort();
    this->spoil_unused(x);
  }
  auto args(auto& place) {
    return CombineArgs<T>{.x = place.in(x), .places = place.in(this->places), .weights = place.in(weights), .y = place.out(y)};
  }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.terms = static_cast<double>(this->size.k), .scale = 1}}}; }
};

template <Scalar T>
struct CombineBackwardProblem : Dispatched<T> {
  static constexpr char const* name = "combine_backward";
  static constexpr auto operation = combine_backward;
  Tensor<T, 2> x, d_y, d_x;
  Tensor<accumulator_t<T>, 2> weights, d_weights;

  template <class Stored>
  CombineBackwardProblem(DispatchSize const& s, Inputs<Stored>& in)
      : Dispatched<T>{s, in},
        x{in.template storage<T>(this->by_place())},
        d_y{in.template storage<T>(this->by_token())},
        d_x{in.template storage<T>(this->by_place())},
        weights{in.template accumulator<accumulator_t<T>>(Shape<2>{s.tokens, s.k})},
        d_weights{unwritten<accumulator_t<T>>(Shape<2>{s.tokens, s.k})} {
    this->sort();
    if (s.in_place)
      d_x = x.clone();
    else
      this->spoil_unused(x);
  }
  auto args(auto& place) {
    CombineBackwardArgs<T> a;
    a.d_x = place.out(d_x);
    a.x = this->size.in_place ? View<T const, 2>{a.d_x} : place.in(x);
    a.places = place.in(this->places), a.weights = place.in(weights), a.d_y = place.in(d_y);
    a.d_weights = place.out(d_weights);
    return a;
  }
  /// Products of normal numbers: sums of D of them have size √D, whatever is left of a single one.
  auto outputs() const {
    auto const D = static_cast<double>(this->size.D);
    return std::tuple{Output{"d_x", d_x, Cost{.terms = 1}},
                      Output{"d_weights", d_weights, Cost{.terms = D, .scale = std::sqrt(D)}}};
  }
};

}  // namespace blackmamba::verify
