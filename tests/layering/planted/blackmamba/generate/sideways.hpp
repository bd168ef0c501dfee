#pragma once
#include <blackmamba/train/step.hpp>
#include <blackmamba/core/long.hpp>
