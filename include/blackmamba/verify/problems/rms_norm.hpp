#pragma once
/// \file
/// Problems for `rms_norm`.

#include <blackmamba/ops/rms_norm/rms_norm.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct RmsNormSize {
  Index rows = 0, D = 0;
  bool with_x = true, with_residual = true;
};

inline std::string to_string(RmsNormSize const& s) {
  return concat("rows ", s.rows, ", D ", s.D, s.with_x ? ", x" : "", s.with_residual ? ", residual" : "");
}

template <Scalar T>
struct RmsNormProblem {
  using Size = RmsNormSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "rms_norm";
  static constexpr auto operation = rms_norm;

  static std::vector<Size> sizes() {
    std::vector<Size> out;
    for (Index rows : {0, 1, 3})
      for (Index D : {1, 7, 8, 9, 127}) {
        out.push_back({rows, D, true, true});
        out.push_back({rows, D, true, false});
        out.push_back({rows, D, false, true});
      }
    return out;
  }

  Size size;
  Tensor<T, 2> x;
  Tensor<T, 1> weight;
  Tensor<A, 2> residual;
  Tensor<T, 2> y;

  template <class Stored>
  RmsNormProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.D})},
        weight{in.template storage<T>(Shape<1>{s.D})},
        residual{in.template accumulator<A>(Shape<2>{s.rows, s.D})},
        y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) {
    return RmsNormArgs<T>{.x = place.in(x, size.with_x),
                          .weight = place.in(weight),
                          .residual = place.out(residual, size.with_residual),
                          .y = place.out(y)};
  }

  auto outputs() const {
    Cost const cost{.terms = static_cast<double>(size.D)};
    return std::tuple{Output{"y", y, cost}, Output{"residual", residual, cost, size.with_residual}};
  }
};

}  // namespace blackmamba::verify
