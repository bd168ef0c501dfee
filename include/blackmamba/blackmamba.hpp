#pragma once
/// \file
/// The whole library. Each header also stands alone: include less where compile time counts (docs/design/build.md has the costs).

#include <blackmamba/core/config.hpp>
#include <blackmamba/core/error.hpp>
#include <blackmamba/core/scalar.hpp>
#include <blackmamba/core/dual.hpp>
#include <blackmamba/core/math.hpp>
#include <blackmamba/core/shape.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/core/arena.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/core/random.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/context.hpp>

#include <blackmamba/ops/rms_norm/rms_norm.hpp>

#include <blackmamba/verify/tolerance.hpp>
#include <blackmamba/verify/compare.hpp>
