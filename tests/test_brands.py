import re
import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from carclf.brands import Brand, brand_table, folder_brand, name_pattern, owner_of, parse_brand, parse_name

NAMES = {brand.name for brand in brand_table()}
SPELLINGS = [(name, brand.name) for brand in brand_table() for name in (brand.name, *brand.aliases)]
REQUIRED = """
AC, Acura, Alfa Romeo, Alpine, Aston Martin, Audi, Aurus, Bentley, BMW, Bristol, Bufori, Bugatti, Buick, BYD, Cadillac,
Caterham, Chevrolet, Chrysler, Citroën, Cupra, CX Automotive, Dacia, Daewoo, Daihatsu, Datsun, DeLorean, Dodge, Eagle,
Ferrari, Fiat, Fisker, Force, Ford, General Motors, Genesis, Geo, GMC, Holden, Honda, Hummer, Hyundai, Infiniti,
Iran Khodro, Isuzu, Jaguar, Jeep, Karma, Kia, Koenigsegg, KTM, Lada, Lamborghini, Lancia, Land Rover, Lexus, Lightyear,
Lincoln, London Taxi, Lotus, Lucid, Mahindra, Maruti, Maserati, Maybach, Mazda, McLaren, Mercedes-AMG, Mercedes-Benz,
Mercury, MG, MINI, Mitsubishi, Morgan, NIO, Nissan, Oldsmobile, Opel, Pagani, Panoz, Perodua, Peugeot, Pininfarina,
Plymouth, Polestar, Pontiac, Porsche, Proton, Qoros, Ram, Renault, Rimac, Rivian, Rolls-Royce, RUF, Saab, Saipa, Saleen,
Saturn, Scion, SEAT, Shelby, Skoda, smart, Spyker, SRT, SsangYong, Subaru, Suzuki, Tata, Tesla, Toyota, TVR, Vauxhall,
Vector, Volga, Volkswagen, Volvo, VPG, Wiesmann, Yugo, Zenvo, AM General, Abarth, Ambassador, AITO, Changan, Chery,
Deepal, Denza, DS, Fangchengbao, GAC, Geely, GWM, Haval, Hongqi, Iveco, Jaecoo, Jetour, Leapmotor, Li Auto, Lynk & Co,
Neta, Omoda, Skywell, SWM, Togg, Troller, VinFast, Voyah, Wuling, Xiaomi, XPeng, Zeekr, Rover, Austin, Studebaker,
Packard, Trabant, Wartburg, UAZ, Moskvich, Zastava, Tatra, Hindustan, Roewe, Hudson, Nash, Borgward, NSU, DAF, Triumph,
Imperial
"""

LISTING = "2017_65_19_370_35_6_74_57_196_29_AWD_5_4_4dr"

READ = [  # file name, brand, model
    # scraped listings
    (f"Land Rover_Range Rover Evoque_{LISTING}_rYh.jpg", "Land Rover", "Range Rover Evoque"),
    (f"BMW_3-Series_{LISTING}_OLt.jpg", "BMW", "3-Series"),
    ("Tesla_Model X_2019_97_20_nan_nan_nan_78_66_198_nan_AWD_5_4_SUV_OOM.jpg", "Tesla", "Model X"),
    # image searches
    ("Force car_Force_car_59.png", "Force", None),
    ("Fiat models car back_Fiat_models_car_back_22.jpg", "Fiat", None),
    ("OpelCorsa car back_OpelCorsa_car_back_46.jpg", "Opel", "Corsa"),
    # data sets
    ("AM General Hummer SUV 2000_00163.jpg", "AM General", "Hummer SUV"),
    ("Lincoln Town Car Sedan 2011_00001.jpg", "Lincoln", "Town Car Sedan"),
    ("MG_070001.jpg", "MG", None),
    ("Fiat 500 (2007)_0041.jpg", "Fiat", "500"),
    ("BMW 2002 Turbo_0019.jpg", "BMW", "2002 Turbo"),
    ("Peugeot 2008_0012.jpg", "Peugeot", "2008"),
    ("Lexus nx-az20-suv-2022-present_0130.jpg", "Lexus", "nx-az20-suv"),
    # by hand and from the web
    ("bmw_5_series.jpg", "BMW", "5 series"),
    ("mazda_cx_5.jpg", "Mazda", "cx 5"),
    ("tesla_model_3.jpg", "Tesla", "model 3"),
    ("bmw_2.jpg", "BMW", None),
    ("audi2.jpg", "Audi", None),
    ("Honda_Civic_12.jpg", "Honda", "Civic"),
    ("Fiat 500 (2).jpg", "Fiat", "500"),
    ("audi+wallpaper+hd65.jpg", "Audi", None),
    ("SKODA%20Octavia%202019.jpg", "Skoda", "Octavia"),
    ("2003 bmw 325i_00D0D_lFJVtm5TdL0_600x450.jpg", "BMW", "325i"),
    ("Alfa20Romeo20Giulia_jpg.rf.8737bdbc3419594ad8dbfad4e8d6a3f8.jpg", "Alfa Romeo", "Giulia"),
    ("1969_Mercury_Marquis_sedan.jpg", "Mercury", "Marquis sedan"),
    ("14-renault-megane-etech.jpg", "Renault", "megane etech"),
    ("used-2014-ford-focus.jpg", "Ford", "focus"),
    ("img_audi_a4.png", "Audi", "a4"),
    ("photo of a red Ferrari.webp", "Ferrari", None),
    ("AlfaRomeoGiulia.jpg", "Alfa Romeo", "Giulia"),
    ("VWGolf.jpg", "Volkswagen", "Golf"),
    ("BMWX5.jpg", "BMW", "X5"),
    ("astonmartin_db9.jpg", "Aston Martin", "db9"),
    # brands within brands: the longest spelling at the start wins
    ("Mercedes-AMG GT.jpg", "Mercedes-AMG", "GT"),
    ("Mercedes-Benz AMG GT.jpg", "Mercedes-Benz", "AMG GT"),
    ("Hummer H2.jpg", "Hummer", "H2"),
    ("Ford Mercury Cougar.jpg", "Ford", "Mercury Cougar"),
    ("mini-cooper-s.jpg", "MINI", "cooper s"),
]

UNREAD = """
Image_006558.jpg 04108.jpg IMG_20200101_120000.jpg hyt8xz5w7mg1.jpg 27AJMDPN1JSZ.jpg RSWYECFMSZEV.jpg ac9f3k2l1m0p.jpg
mg4k2xq81z0d.jpg ram1gb7x9q0z.jpg AC3F9KLM2QQQ.jpg DSC_0001.jpg DS1234.jpg ds_0012.jpg _MG_1234.JPG _MG_2012-Edit.JPG
0f26dd755f4b5ab6_jpg.rf.e2BrX1.jpg 0a07a574-ea86-4350-8ca6-8fd61bfc7587.jpg Force_of_nature.jpg eagle_eye.jpg
smartphone_12.jpg seatbelt.jpg Forde_12.jpg Audible.jpg Opelika_1.jpg ford1ng.jpg vector-art.jpg .jpg
"""


@pytest.mark.parametrize(("name", "brand", "model"), READ)
def test_common_name_patterns_are_read(name, brand, model):
    assert parse_brand(name) == brand
    assert parse_name(name)[:2] == (brand, model)


@pytest.mark.parametrize("name", [*UNREAD.split(), "", "smart phone.jpg", "photo of a lotus.jpg", "ac unit_0001.jpg"])
def test_nothing_is_guessed(name):
    assert parse_brand(name) is None
    assert parse_name(name) == (None, None, None)


def test_photos_of_a_listing_share_their_vehicle():
    vehicles = {parse_name(f"cars/Audi_A4_{LISTING}_{photo}.jpg").vehicle for photo in ("VUY", "hJs", "abc")}
    assert vehicles == {f"Audi_A4_{LISTING}"}
    assert parse_name(f"Nobody_Knows_{LISTING}_abc.jpg") == (None, None, f"Nobody_Knows_{LISTING}")
    assert parse_name("Audi_A4_2017_abc.jpg").vehicle is None


def test_only_the_last_component_of_a_path_counts():
    assert parse_brand("Audi/04108.jpg") is None
    assert parse_brand("Audi/Opel Corsa.jpg") == parse_brand("Audi\\Opel Corsa.JPG") == "Opel"
    assert parse_brand(PurePosixPath("Audi/Opel Corsa.jpg")) == parse_brand("x/Opel/") == "Opel"


@pytest.mark.parametrize(("spelling", "brand"), SPELLINGS)
def test_case_accents_and_separators_do_not_matter(spelling, brand):
    plain = "".join(c for c in unicodedata.normalize("NFKD", spelling) if not unicodedata.combining(c))
    name = f"{spelling} Model 2012_00012.jpg"
    spread = [name.replace(" ", separator) for separator in ("_", "-", "+", ".", "%20")]
    decomposed = unicodedata.normalize("NFD", name)
    for variant in (name, name.upper(), name.lower(), decomposed, f"{plain} Model 2012_00012.jpg", *spread):
        assert parse_brand(variant) == brand, variant
    assert folder_brand(spelling.upper()) == folder_brand(f"cars/{plain.replace(' ', '_')}") == brand


@given(st.text() | st.text(alphabet=st.characters()) | st.from_regex(r"[A-Za-z0-9 _.%&+/-]{0,40}"))
@settings(deadline=None)
def test_any_text_is_read_without_an_error(text):
    for name in (text, f"Audi {text}", f"mg_{text}.jpg", f"{text}\ud800\n\0"):
        parsed = parse_name(name)
        assert parsed.brand == parse_brand(name)
        assert parsed.brand is None or parsed.brand in NAMES
        assert parsed.model is None or parsed.model.strip()
        assert isinstance(name_pattern(name), str)
        assert folder_brand(name) in {None, *NAMES}


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=12))
def test_random_identifiers_carry_no_brand(identifier):
    assume(not identifier.rstrip("0123456789").isalpha())
    assert parse_brand(f"{identifier}.jpg") is None


@pytest.mark.parametrize("folder", ["Audi cars", "04108", "my audi", "", "new", "Force of nature"])
def test_a_folder_must_be_named_exactly_like_a_brand(folder):
    assert folder_brand(folder) is None


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Image_001891.jpg", "Image_<digits>"),
        ("04108.png", "<digits>"),
        ("hyt8xz5w7mg1", "<id>"),
        ("RSWYECFMSZEV.jpg", "<id>"),
        ("0a07a574-ea86-4350-8ca6-8fd61bfc7587.jpg", "<id>"),
        ("0f26dd755f4b5ab6_jpg.rf.e2BrX1.jpg", "<id>"),
        ("IMG_20200101_120000.jpg", "IMG_<digits>_<digits>"),
    ],
)
def test_unread_names_are_grouped_by_pattern(name, pattern):
    assert name_pattern(name) == pattern


def test_the_table_holds_the_makes_people_photograph_and_their_owners():
    assert {name.strip() for name in REQUIRED.replace("\n", " ").split(",")} <= NAMES
    assert len(NAMES) == len(brand_table()) >= 150
    assert brand_table() is brand_table()
    assert all(brand.country for brand in brand_table())
    assert Brand("Audi", (), "Volkswagen Group", "Germany") in brand_table()
    assert owner_of("Audi") == owner_of("vw") == "Volkswagen Group"
    assert owner_of("Range Rover") == "Tata Motors"
    assert owner_of("Packard") is owner_of("Nobody") is None


def test_the_table_is_sorted_and_every_spelling_belongs_to_one_brand():
    def key(text):
        return re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", text).casefold())

    names = [key(brand.name) for brand in brand_table()]
    spellings = [key(name) for brand in brand_table() for name in (brand.name, *brand.aliases)]
    assert names == sorted(names)
    assert all(spellings) and len(spellings) == len(set(spellings))
