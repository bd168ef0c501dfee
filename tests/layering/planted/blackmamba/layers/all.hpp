#pragma once
#include <blackmamba/blackmamba.hpp>
#include "../core/sound.hpp"
