#include "protocol/launch_form.h"

#include <functional>
#include <string>

#include <doctest/doctest.h>

#include "policy/judge/verdict_from_request.h"
#include "tests/unit/launch_samples.h"

namespace postern {
namespace {

struct Case {
  const char* what;
  std::function<void(LaunchRequest&)> change;
  RefusalCode code;
  std::uint32_t item;
};

const Case kCases[] = {
    {"nothing changed", [](LaunchRequest&) {}, RefusalCode::kNone, 0},
    {"no such root", [](LaunchRequest& r) { r.root = RootKind{9}; }, RefusalCode::kMalformedRequest,
     0},
    {"no such scratch", [](LaunchRequest& r) { r.scratch = Scratch{9}; },
     RefusalCode::kMalformedRequest, 0},
    {"no such namespace", [](LaunchRequest& r) { r.namespaces = 0x80; },
     RefusalCode::kMalformedRequest, 0},
    {"no such capability", [](LaunchRequest& r) { r.capabilities = 1ULL << 50; },
     RefusalCode::kMalformedRequest, 0},
    {"a scratch of 2 TiB", [](LaunchRequest& r) { r.scratch_bytes = 1ULL << 41; },
     RefusalCode::kMalformedRequest, 0},
    {"a host name for the host", [](LaunchRequest& r) { r.hostname = "x"; },
     RefusalCode::kMalformedRequest, 0},
    {"a host name with an escape",
     [](LaunchRequest& r) {
       r.namespaces = CLONE_NEWUTS;
       r.hostname = "x\x1b[2J";
     },
     RefusalCode::kMalformedRequest, 0},
    {"a host name of 65 bytes",
     [](LaunchRequest& r) {
       r.namespaces = CLONE_NEWUTS;
       r.hostname.assign(65, 'x');
     },
     RefusalCode::kMalformedRequest, 0},
    {"a host name that begins as an option does",
     [](LaunchRequest& r) {
       r.namespaces = CLONE_NEWUTS;
       r.hostname = "-x";
     },
     RefusalCode::kMalformedRequest, 0},
    {"a new network and an old one",
     [](LaunchRequest& r) {
       r.namespaces = CLONE_NEWNET;
       r.join_net = 3;
     },
     RefusalCode::kMalformedRequest, 0},
    {"a volume key for a FUSE root", [](LaunchRequest& r) { r.volume_key = 3; },
     RefusalCode::kMalformedRequest, 0},
    {"a writable FUSE root", [](LaunchRequest& r) { r.writable_root = true; },
     RefusalCode::kMalformedRequest, 0},
    {"an upper directory without its scratch", [](LaunchRequest& r) { r.upper = 3; },
     RefusalCode::kMalformedRequest, 0},
    {"17 layers", [](LaunchRequest& r) { r.layers.resize(17); }, RefusalCode::kMalformedRequest, 0},
    {"no such layer", [](LaunchRequest& r) { r.layers = {{RootKind{7}, 3}}; },
     RefusalCode::kMalformedRequest, 0},
    {"one mount too many", [](LaunchRequest& r) { r.mounts.resize(kMaxOperations + 1); },
     RefusalCode::kMalformedRequest, 0},
    {"init is the root", [](LaunchRequest& r) { r.init = 0; }, RefusalCode::kDescriptorCount, 0},
    {"record is init", [](LaunchRequest& r) { r.record = r.init; }, RefusalCode::kDescriptorCount,
     0},
    {"a layer uses the bind's", [](LaunchRequest& r) { r.layers = {{RootKind::kFuse, 3}}; },
     RefusalCode::kDescriptorCount, 1},
    {"the bind's is out of range", [](LaunchRequest& r) { r.mounts[1].descriptor = 4; },
     RefusalCode::kDescriptorCount, 1},
    {"one is left over", [](LaunchRequest& r) { r.mounts.pop_back(); },
     RefusalCode::kDescriptorCount, 0},
    {"no such operation", [](LaunchRequest& r) { r.mounts[1].operation = Operation{0}; },
     RefusalCode::kMalformedRequest, 1},
    {"an operation past the last",
     [](LaunchRequest& r) { r.mounts[1].operation = static_cast<Operation>(kOperationCount + 1); },
     RefusalCode::kMalformedRequest, 1},
    {"no such flag", [](LaunchRequest& r) { r.mounts[1].flags = 0x10; },
     RefusalCode::kMalformedRequest, 1},
    {"a layer without an overlay",
     [](LaunchRequest& r) {
       r.layers = {{RootKind::kFuse, 3}};
       r.mounts.pop_back();
       r.scratch = Scratch::kNone;
     },
     RefusalCode::kMalformedRequest, 0},
    {"a read-only tmpfs",
     [](LaunchRequest& r) {
       r.mounts[0] = {.operation = Operation::kTmpfs, .flags = kReadOnly, .target = "/t"};
     },
     RefusalCode::kMalformedRequest, 0},
    {"a writable directory below a layer",
     [](LaunchRequest& r) {
       r.root = RootKind::kDirectory;
       r.scratch = Scratch::kNone;
       r.writable_root = true;
       r.layers.resize(1);
     },
     RefusalCode::kMalformedRequest, 0},
    {"a read-only proc", [](LaunchRequest& r) { r.mounts[0].flags |= kReadOnly; },
     RefusalCode::kMalformedRequest, 0},
    {"a bind of nothing", [](LaunchRequest& r) { r.mounts[1].descriptor.reset(); },
     RefusalCode::kMalformedRequest, 1},
    {"proc of a descriptor", [](LaunchRequest& r) { r.mounts[0].descriptor = 3; },
     RefusalCode::kMalformedRequest, 0},
    {"a setuid tmpfs",
     [](LaunchRequest& r) {
       r.mounts[0].operation = Operation::kTmpfs;
       r.mounts[0].mode = 04755;
     },
     RefusalCode::kMalformedRequest, 0},
    {"a target outside", [](LaunchRequest& r) { r.mounts[1].target = "/data/../.."; },
     RefusalCode::kMalformedRequest, 1},
};

TEST_CASE("a request that is not well-formed is refused, and says where") {
  for (const Case& row : kCases) {
    CAPTURE(row.what);
    LaunchRequest request = sample_request();
    row.change(request);
    const auto form = check_form(request, 4);
    CHECK(form.has_value() == (row.code == RefusalCode::kNone));
    if (!form) {
      CHECK(form.error().code == row.code);
      CHECK(form.error().item == row.item);
    }
  }
}

TEST_CASE("more descriptors than a datagram carries are refused") {
  const auto form = check_form(sample_request(), kMaxDescriptors + 1);
  REQUIRE_FALSE(form);
  CHECK(form.error().code == RefusalCode::kDescriptorCount);
}

TEST_CASE("a target is an absolute path below the root") {
  for (const char* good : {"/a", "/a/b", "/..a", "/a..", "/...", "/.a/b."}) {
    CAPTURE(good);
    CHECK(is_target(good));
  }
  for (const char* bad : {"", "a", "a/b", "/", "//", "/.", "/..", "/../a", "/a/..", "/a/../b",
                          "/a/", "//a", "/a//b", "/a/./b"}) {
    CAPTURE(bad);
    CHECK_FALSE(is_target(bad));
  }
  CHECK_FALSE(is_target(std::string_view("/a\0b", 4)));
  CHECK(is_target("/" + std::string(255, 'a')));
  CHECK_FALSE(is_target("/" + std::string(256, 'a')));
  std::string longest;
  while (longest.size() < 4094) {
    longest += "/a";
  }
  CHECK(is_target(longest + "a"));
  CHECK_FALSE(is_target(longest + "/a"));
}

TEST_CASE("a verdict holds what the request asks") {
  LaunchRequest request = sample_request();
  request.mounts.push_back(
      {.operation = Operation::kTmpfs, .target = "/tmp", .mode = 01777, .size = 4096});
  request.namespaces = CLONE_NEWUTS;
  request.hostname.assign(64, 'h');
  static Verdict verdict;
  REQUIRE(judge::verdict_from_request(request, 4, verdict));
  CHECK(verdict.magic == kVerdictMagic);
  CHECK(verdict.decision == Decision::kAllow);
  REQUIRE(verdict.layer_count == 1);
  CHECK(verdict.layers[0].kind == RootKind::kFuse);
  CHECK(verdict.layers[0].descriptor == 0);
  CHECK(verdict.overlay == 1);
  CHECK(verdict.writable == 0);
  CHECK(verdict.scratch_bytes == kDefaultSessionBytes);
  CHECK(verdict.net_descriptor == kNoDescriptor);
  CHECK(verdict.upper_descriptor == kNoDescriptor);
  CHECK(std::string(verdict.hostname.begin(), verdict.hostname.end()) == request.hostname);
  REQUIRE(verdict.operation_count == 3);
  const auto text = [](std::uint32_t offset) { return std::string(&verdict.arena[offset]); };
  CHECK(text(verdict.operations[0].target) == "/proc");
  CHECK(verdict.operations[0].descriptor == kNoDescriptor);
  CHECK(verdict.operations[1].descriptor == 3);
  CHECK(verdict.operations[1].mode == 0);
  CHECK(verdict.operations[2].mode == 01777);
  CHECK(verdict.operations[2].size == 4096);
  CHECK(text(0).empty());
}

std::string long_target() {
  std::string path;
  while (path.size() < 4000) {
    path += "/" + std::string(99, 't');
  }
  return path;
}

TEST_CASE("texts that do not fit the arena are refused at the first that does not") {
  LaunchRequest request = sample_request();
  while (request.mounts.size() < 80) {
    request.mounts.push_back({.operation = Operation::kTmpfs, .target = long_target()});
  }
  static Verdict verdict;
  const auto made = judge::verdict_from_request(request, 4, verdict);
  REQUIRE_FALSE(made);
  CHECK(made.error().code == RefusalCode::kMalformedRequest);
  CHECK(made.error().item ==
        67);  // the sample's two, and 65 of 4,001 bytes with their NUL fit 262,144 bytes
  CHECK(verdict.decision == Decision::kRefuse);
  CHECK(verdict.operation_count == 0);
}

}  // namespace
}  // namespace postern
