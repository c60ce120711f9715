# SPDX-License-Identifier: Apache-2.0
"""Write the dashboards' JSON."""

from dashboards.files import FOLDER, generated

for name, text in generated().items():
    (FOLDER / name).write_text(text)
    print(name)
