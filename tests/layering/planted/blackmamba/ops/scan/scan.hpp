#pragma once
#include <blackmamba/core/sound.hpp>
  #  include <blackmamba/layers/all.hpp>
