"""Writes scikit-learn's digits as pictures and a CSV file: python digits.py FOLDER"""
import sys
from pathlib import Path
from PIL import Image
from sklearn.datasets import load_digits
folder, digits = Path(sys.argv[1]), load_digits()
folder.mkdir()
for number, picture in enumerate(digits.images):
    Image.fromarray((picture * 15).astype("uint8")).resize((32, 32)).save(folder / f"{number}.png")
(folder / "labels.csv").write_text("number,digit\n" + "".join(f"{n},{d}\n" for n, d in enumerate(digits.target)))
