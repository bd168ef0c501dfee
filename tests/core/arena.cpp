#include <blackmamba/core/arena.hpp>

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

TEST_CASE("arena: every tensor starts on a cache line, and no two overlap") {
  Arena arena;
  auto const scope = arena.scope();
  auto const a = arena.take<char>(Shape<1>{3});
  auto const b = arena.take<double>(Shape<2>{5, 7});
  auto const c = arena.take<char>(Shape<1>{0});
  auto const d = arena.take<char>(Shape<1>{1});
  for (void const* p : {static_cast<void const*>(a.data()), static_cast<void const*>(b.data()), static_cast<void const*>(c.data()),
                        static_cast<void const*>(d.data())})
    CHECK(reinterpret_cast<std::uintptr_t>(p) % Arena::alignment == 0);
  CHECK(reinterpret_cast<char*>(b.data()) >= a.data() + 3);
  CHECK(c.data() >= reinterpret_cast<char*>(b.data() + 35));
  CHECK(static_cast<bool>(c));
  CHECK(d.data() != c.data());
}

TEST_CASE("arena: a scope gives back what was taken inside it, and only that") {
  Arena arena{4096};
  auto const outer = arena.scope();
  auto const kept = arena.take<int>(Shape<1>{16});
  kept(0) = 42;
  int* first = nullptr;
  {
    auto const inner = arena.scope();
    first = arena.take<int>(Shape<1>{16}).data();
    CHECK(arena.in_use() == 128);
  }
  CHECK(arena.in_use() == 64);
  CHECK(arena.take<int>(Shape<1>{16}).data() == first);
  CHECK(kept(0) == 42);
  CHECK(arena.peak() == 128);
}

TEST_CASE("arena: a scope ended by an exception gives back too") {
  Arena arena;
  try {
    auto const scope = arena.scope();
    arena.take<int>(Shape<1>{1000});
    throw 1;
  } catch (int) {
  }
  CHECK(arena.in_use() == 0);
}

TEST_CASE("arena: while it grows, earlier tensors stay where they are; empty again, it is one block of the peak size") {
  Arena arena;
  {
    auto const scope = arena.scope();
    auto const small = arena.take<std::int64_t>(Shape<1>{100});
    for (Index i = 0; i < 100; ++i) small(i) = i;
    for (Index n : {100000, 7, 300000}) {
      auto const more = arena.take<std::int64_t>(Shape<1>{n});
      for (Index i = 0; i < n; ++i) more(i) = -1;
    }
    bool kept = true;
    for (Index i = 0; i < 100; ++i) kept = kept && small(i) == i;
    CHECK(kept);
    CHECK(arena.capacity() >= arena.peak());
  }
  CHECK(arena.in_use() == 0);
  CHECK(arena.capacity() == arena.peak());
  arena.seal();
  auto const scope = arena.scope();
  CHECK_NOTHROW(arena.take<std::int64_t>(Shape<1>{100}));
  for (Index n : {100000, 7, 300000}) CHECK_NOTHROW(arena.take<std::int64_t>(Shape<1>{n}));
}

TEST_CASE("arena: sealed, it refuses to grow and says how far it was used") {
  Arena arena{256};
  arena.seal();
  auto const scope = arena.scope();
  arena.take<char>(Shape<1>{192});
  CHECK_NOTHROW(arena.take<char>(Shape<1>{64}));
  CHECK_THROWS_WITH_AS(arena.take<char>(Shape<1>{1}), "a sealed arena of 256 bytes, 256 in use, was asked for 64 more",
                       memory_error);
  CHECK(arena.in_use() == 256);
  arena.unseal();
  CHECK_NOTHROW(arena.take<char>(Shape<1>{1}));
}

TEST_CASE("arena: a refused take changes nothing, so what follows still fits") {
  Arena arena{256};
  arena.seal();
  auto const scope = arena.scope();
  CHECK_THROWS_AS(arena.take<char>(Shape<1>{257}), memory_error);
  CHECK_NOTHROW(arena.take<char>(Shape<1>{256}));
}

TEST_CASE("arena: in use, it cannot be resized") {
  Arena arena;
  {
    auto const scope = arena.scope();
    arena.take<char>(Shape<1>{1});
    CHECK_THROWS_WITH_AS(arena.reserve(1000), "an arena in use cannot be resized", memory_error);
  }
  arena.reserve(1 << 20);
  CHECK(arena.capacity() == 1 << 20);
}

TEST_CASE("arena: sizes that no machine has are a memory_error, and leave the arena usable") {
  Arena arena;
  auto const scope = arena.scope();
#if !defined(__SANITIZE_ADDRESS__)  // whose allocator ends the program where the system's throws
  CHECK_THROWS_AS(arena.take<double>(Shape<1>{Index{1} << 58}), memory_error);
#endif
  CHECK_THROWS_WITH_AS(arena.take<double>(Shape<2>{Index{1} << 31, Index{1} << 31}),
                       "a tensor of shape (2147483648, 2147483648) has more than 2^63 - 1 bytes", memory_error);
  CHECK_THROWS_AS(arena.take<double>(Shape<2>{Index{1} << 32, Index{1} << 32}), shape_error);
  CHECK_THROWS_AS(arena.take<double>(Shape<1>{-1}), shape_error);
  CHECK(arena.in_use() == 0);
  CHECK_NOTHROW(arena.take<double>(Shape<1>{1}));
}

TEST_CASE("arena: zeros are zeros where other values lay before") {
  Arena arena{1024};
  {
    auto const scope = arena.scope();
    arena.take<int>(Shape<1>{100})(99) = 7;
  }
  auto const scope = arena.scope();
  CHECK(arena.take_zeros<int>(Shape<1>{100})(99) == 0);
}

namespace {

/// Memory of `limit` bytes, and what went wrong with it.
struct Small {
  std::size_t limit, used = 0;
  bool broken = false;
  std::vector<std::pair<void*, std::size_t>> blocks{};

  MemoryResource resource() {
    return {[](void* owner, std::size_t bytes, std::size_t alignment) -> void* {
              auto& self = *static_cast<Small*>(owner);
              if (self.broken) throw error("the device is lost");
              if (self.used + bytes > self.limit) throw memory_error(concat("no ", bytes, " bytes"));
              self.used += bytes;
              void* const memory = ::operator new (bytes, std::align_val_t{alignment});
              self.blocks.emplace_back(memory, bytes);
              return memory;
            },
            [](void* owner, void* memory, std::size_t alignment) {
              auto& self = *static_cast<Small*>(owner);
              for (auto& [block, bytes] : self.blocks)
                if (block == memory) self.used -= bytes, block = nullptr;
              ::operator delete (memory, std::align_val_t{alignment});
            },
            [](void*, void* memory, std::size_t bytes) { std::memset(memory, 0, bytes); }, this};
  }
};

}  // namespace

TEST_CASE("arena: where there is not as much again, it takes no more than it was asked for") {
  Small memory{.limit = 1 << 20};
  Arena arena{memory.resource()};
  {
    auto const scope = arena.scope();
    arena.take<char>(Shape<1>{600'000});
    CHECK_NOTHROW(arena.take<char>(Shape<1>{100'000}));
    CHECK_THROWS_AS(arena.take<char>(Shape<1>{500'000}), memory_error);
    CHECK_NOTHROW(arena.take<char>(Shape<1>{100'000}));
  }
  CHECK(arena.capacity() == arena.peak());
}

TEST_CASE("arena: a scope that ends where memory answers with errors does not end the program") {
  Small memory{.limit = 1 << 20};
  Arena arena{memory.resource()};
  {
    auto const scope = arena.scope();
    arena.take<char>(Shape<1>{100'000});
    arena.take<char>(Shape<1>{100'000});
    memory.broken = true;
  }
  CHECK(arena.in_use() == 0);
  CHECK_THROWS_WITH_AS(arena.take<char>(Shape<1>{1}), "the device is lost", error);
  memory.broken = false;
  CHECK_NOTHROW(arena.take<char>(Shape<1>{1}));
}

TEST_CASE("arena: held blocks stay memory when the arena has moved on, and are given back after") {
  Small memory{.limit = 1 << 24};
  Arena arena{memory.resource()};
  {
    auto const scope = arena.scope();
    arena.take<char>(Shape<1>{100'000});
  }
  auto const before = memory.used;
  char* recorded = nullptr;
  auto held = arena.hold();
  {
    auto const scope = arena.scope();
    recorded = arena.take<char>(Shape<1>{100'000}).data();
    arena.take<char>(Shape<1>{1'000'000});
  }
  CHECK(memory.used == before + arena.capacity());
  recorded[99'999] = 7;  // what the address sanitizer would see
  {
    auto const scope = arena.scope();
    CHECK(arena.take<char>(Shape<1>{100'000}).data() != recorded);
  }
  held.clear();
  CHECK(memory.used == arena.capacity());
}

TEST_CASE("arena: sealed for a while, it is then as it was before") {
  Arena arena{256};
  {
    Arena::Sealed const outer{arena};
    { Arena::Sealed const inner{arena}; }
    auto const scope = arena.scope();
    CHECK_THROWS_AS(arena.take<char>(Shape<1>{257}), memory_error);
  }
  auto const scope = arena.scope();
  CHECK_NOTHROW(arena.take<char>(Shape<1>{257}));
}
