// frontend/plan/cdi: specifications of devices, field by field.
#include "frontend/plan/cdi.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tests/unit/temporary_directory.h"

using postern::plan::cdi_edits;
using postern::plan::parse_cdi_spec;

namespace {

std::string spec(const std::string& edits,
                 const std::string& name = "gpu0",
                 const std::string& kind = "vendor.com/class",
                 const std::string& version = "0.6.0") {
  return R"({"cdiVersion":")" + version + R"(","kind":")" + kind + R"(","devices":[{"name":")" +
         name + R"(","containerEdits":)" + edits + "}]}";
}

}  // namespace

TEST_SUITE("plan") {
  TEST_CASE("a CDI specification: variables, nodes, mounts") {
    const auto read = parse_cdi_spec(spec(
        R"({"env":["A=$x"],"deviceNodes":[{"path":"/dev/x","hostPath":"/dev/y","permissions":"rw"},{"path":"/dev/z"}],)"
        R"("mounts":[{"hostPath":"/a","containerPath":"/b","options":["ro","nosuid","bind"]},{"hostPath":"/c","containerPath":"/d"}]})"));
    REQUIRE(read);
    const auto& edits = read->devices.at(0).edits;
    CHECK(edits.environment == std::vector<std::string>{"A=$x"});
    REQUIRE(edits.nodes.size() == 2);
    CHECK(edits.nodes[0].path == "/dev/x");
    CHECK(edits.nodes[0].host_path == "/dev/y");
    CHECK(edits.nodes[1].host_path == "/dev/z");
    REQUIRE(edits.mounts.size() == 2);
    CHECK(edits.mounts[0].read_only);
    CHECK_FALSE(edits.mounts[1].read_only);
    CHECK(edits.ignored.empty());
  }

  TEST_CASE("what a CDI specification asks for and the caller cannot do is said") {
    const auto read = parse_cdi_spec(spec(
        R"({"hooks":[{"hookName":"createContainer","path":"/usr/bin/hook"},)"
        R"({"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook","args":["nvidia-cdi-hook","update-ldcache"]}],)"
        R"("mounts":[{"hostPath":"/a","containerPath":"/b","options":["noexec"]}],"additionalGids":[44]})"));
    REQUIRE(read);
    const auto& ignored = read->devices.at(0).edits.ignored;
    REQUIRE(ignored.size() == 3);
    CHECK(ignored[0].find("noexec") != std::string::npos);
    CHECK(ignored[1].find("/usr/bin/hook ") != std::string::npos);
    CHECK(ignored[2].find("additionalGids") != std::string::npos);
  }

  TEST_CASE("a CDI specification that breaks the standard is an error that names the place") {
    struct Row {
      std::string text, word;
    };

    const std::array rows = std::to_array<Row>({
        {"[]", "object"},
        {"{", ""},
        {spec("{}", "gpu0", "vendor.com/class", "9.9.9"), "9.9.9"},
        {spec("{}", "gpu0", "vendor.com/class", ""), "cdiVersion"},
        {spec("{}", "gpu0", "vendor.com"), "kind"},
        {spec("{}", "gpu0", "1vendor/class"), "kind"},
        {spec("{}", "gpu0", "vendor.com/cl ass"), "kind"},
        {spec("{}", "gpu0-"), "name"},
        {spec("{}", ""), "name"},
        {R"({"cdiVersion":"0.6.0","kind":"v/c","devices":[]})", "devices"},
        {R"({"cdiVersion":"0.6.0","kind":"v/c","devices":[{"name":"a"},{"name":"a"}]})", "twice"},
        {spec(R"([])"), "containerEdits"},
        {spec(R"({"env":"A=1"})"), "env"},
        {spec(R"({"env":["A"]})"), "\"A\""},
        {spec(R"({"env":["=1"]})"), "=1"},
        {spec(R"({"deviceNodes":[{"path":"dev/x"}]})"), "dev/x"},
        {spec(R"({"deviceNodes":[{"path":"/dev/x","type":"b"}]})"), "type b"},
        {spec(R"({"deviceNodes":[{"path":"/dev/x","permissions":"rx"}]})"), "rx"},
        {spec(R"({"mounts":[{"hostPath":"/a"}]})"), "containerPath"},
        {spec(R"({"mounts":[{"hostPath":"/a","containerPath":"/b","type":"tmpfs"}]})"), "tmpfs"},
        {spec(R"({"hooks":[{"hookName":"x"}]})"), "hooks"},
    });
    for (const Row& row : rows) {
      CAPTURE(row.text);
      const auto read = parse_cdi_spec(row.text);
      REQUIRE_FALSE(read);
      CHECK(read.error().what.find(row.word) != std::string::npos);
    }
  }

  TEST_CASE("CDI directories: the later one overrides, one directory must not say it twice") {
    const postern::TemporaryDirectory top;
    const auto write = [&](const std::string& name, const std::string& text) {
      const std::filesystem::path path = top.path + "/" + name;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << text;
    };
    write("low/a.json", spec(R"({"env":["FROM=low"]})"));
    write("low/b.json", spec(R"({"env":["FROM=b"]})", "gpu1"));
    write("high/a.json", spec(R"({"env":["FROM=high"]})"));
    write("high/broken.json", "{");
    const std::string low = top.path + "/low";
    const std::string high = top.path + "/high";
    const auto environment = [&](const std::string& device, std::vector<std::string> directories) {
      auto edits = cdi_edits({device}, std::move(directories));
      REQUIRE(edits);
      return edits->environment;
    };
    using Texts = std::vector<std::string>;
    CHECK(environment("vendor.com/class=gpu0", {low, high}) == Texts{"FROM=high"});
    CHECK(environment("vendor.com/class=gpu0", {high, low}) == Texts{"FROM=low"});
    CHECK(environment("vendor.com/class=gpu1", {low, high}) == Texts{"FROM=b"});
    CHECK(environment("vendor.com/class=all", {low}) == Texts{"FROM=low", "FROM=b"});
    write("low/c.json", spec("{}"));
    const auto twice = cdi_edits({"vendor.com/class=gpu0"}, {low});
    REQUIRE_FALSE(twice);
    CHECK(twice.error().what.find("both") != std::string::npos);
    CHECK(environment("vendor.com/class=gpu0", {low, high}) == Texts{"FROM=high"});
    const auto missing = cdi_edits({"vendor.com/class=gpu7"}, {low, high});
    REQUIRE_FALSE(missing);
    CHECK(missing.error().cure.find("broken.json") != std::string::npos);
    CHECK_FALSE(cdi_edits({"gpu0"}, {low}));
    CHECK_FALSE(cdi_edits({"vendor.com/class=gpu0"}, {top.path + "/none"}));
  }
}
