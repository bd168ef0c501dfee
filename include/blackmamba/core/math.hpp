#pragma once
/// \file
/// Elementary functions, written unqualified in the operations: `exp(x)` is `std::exp` for the built-in scalars, and for a
/// `Dual` or a scalar of yours it is the one that argument-dependent lookup finds beside the type.

#include <cmath>

namespace blackmamba {

using std::abs;
using std::cos;
using std::erf;
using std::exp;
using std::expm1;
using std::isfinite;
using std::log;
using std::log1p;
using std::pow;
using std::sin;
using std::sqrt;
using std::tanh;

}  // namespace blackmamba
