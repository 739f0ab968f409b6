// JSON of any form, for what shows it or hands it on.
#pragma once

#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace postern::json {

// A discarded value (is_discarded()) if the text is malformed, or nests deeper than real documents
// do: nlohmann-json calls itself once a level, when it copies and writes a value.
nlohmann::json parse_document(std::string_view text);

}  // namespace postern::json
