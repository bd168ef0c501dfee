#pragma once
#include <blackmamba/core/sound.hpp>
#include <blackmamba/generate/sideways.hpp>
#include <blackmamba/core/upward.hpp>
#include <blackmamba/ops/scan/scan.hpp>
